"""A worker's health, judged by its progress: why it is not live, ready or started."""

import time
from collections.abc import Callable, Mapping
from typing import Final

READY_SECONDS: Final = 15.0
"""How long the store may be silent. A worker runs a script every five seconds at least."""
QUEUE_SECONDS: Final = 60.0
"""How long calls to the queue of requests may fail: throttling and short outages pass."""


class Health:
    """Returns one line for each part that is not well; none if all is well.

    `stuck` returns the parts that made no progress for too long, and for how many seconds.
    `store_answered_at` returns when the store answered last, and `queue_failing_since` since when
    calls to the queue of requests fail, on the clock `clock`.
    """

    def __init__(
        self,
        stuck: Callable[[], Mapping[str, float]],
        store_answered_at: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
        *,
        queue_failing_since: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._stuck = stuck
        self._store_answered_at = store_answered_at
        self._queue_failing_since = queue_failing_since
        self._clock = clock
        self._is_stopping = False

    def note_stopping(self) -> None:
        """Report from now on that this worker is not ready."""
        self._is_stopping = True

    def live(self) -> list[str]:
        """Return why this worker should be restarted."""
        return [f"{name}: no progress for {s:.0f} s" for name, s in self._stuck().items()]

    def ready(self) -> list[str]:
        """Return why this worker takes no work now."""
        reasons = ["worker: is stopping"] if self._is_stopping else []
        silent = self.store_silent_seconds()
        if silent is None:
            reasons.append("store: has not answered yet")
        elif silent > READY_SECONDS:
            reasons.append(f"store: no answer for {silent:.0f} s")
        if (failing := self.queue_failing_seconds()) > QUEUE_SECONDS:
            reasons.append(f"queue of requests: calls have failed for {failing:.0f} s")
        return reasons

    def started(self) -> list[str]:
        """Return why this worker has not started yet."""
        return [] if self._store_answered_at() is not None else ["store: has not answered yet"]

    def store_silent_seconds(self) -> float | None:
        """Return how long ago the store answered; None if it has not answered yet."""
        answered_at = self._store_answered_at()
        return None if answered_at is None else max(0.0, self._clock() - answered_at)

    def queue_failing_seconds(self) -> float:
        """Return for how long calls to the queue of requests have failed; 0 if none do."""
        since = self._queue_failing_since()
        return 0.0 if since is None else max(0.0, self._clock() - since)
