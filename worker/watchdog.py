"""Ends a worker that is alive but makes no progress.

Whatever runs the worker starts it again. Nothing is lost, because the worker's leases end. A worker
that hangs would otherwise stay forever.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

log = structlog.get_logger()

EXIT_CODE: Final = 70
"""EX_SOFTWARE of sysexits.h: an internal error."""

CHECK_SECONDS: Final = 1.0
PATIENCE_MIN_SECONDS: Final = 90.0
"""Longer than the driver tries to reach a store that does not answer (worker.store.connection)."""


class Watchdog:
    """Watches signs of progress on its own thread; ends the process if one stops changing.

    A sign is a function whose value changes while there is progress. None means that there is
    nothing to do, or that the process waits for something else. Time in which the process was
    frozen does not count.
    """

    def __init__(self, signs: Mapping[str, Callable[[], object]], patience_seconds: float) -> None:
        self._signs = signs
        self._patience_seconds = max(patience_seconds, PATIENCE_MIN_SECONDS)
        self._patience = self._patience_seconds / CHECK_SECONDS
        self._seen: dict[str, object] = {}
        self._checks: dict[str, int] = dict.fromkeys(signs, 0)
        self._checked_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._checked_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, because a worker that stops may take its time."""
        self._stopping.set()

    def silence(self) -> dict[str, float]:
        """Return for how many seconds each sign has not changed; empty unless it watches."""
        if self._checked_at is None or self._stopping.is_set():
            return {}
        return {name: max(0, n - 1) * CHECK_SECONDS for name, n in self._checks.items()}

    def stuck(self) -> dict[str, float]:
        """Return the signs, and the watchdog itself, that are silent for too long, in seconds.

        The worker should have ended then. This does not depend on the watchdog's own thread.
        """
        found = {n: s for n, s in self.silence().items() if s >= self._patience_seconds}
        if self._checked_at is not None and not self._stopping.is_set():
            silent = time.monotonic() - self._checked_at
            if silent >= self._patience_seconds:
                found["watchdog"] = silent
        return found

    def _watch(self) -> None:
        while not self._stopping.wait(CHECK_SECONDS):
            self._checked_at = time.monotonic()
            for name, sign in self._signs.items():
                if self._stands_still(name, sign()):
                    _end(name, round(self._patience * CHECK_SECONDS))

    def _stands_still(self, name: str, value: object) -> bool:
        if value is None or value != self._seen.get(name):
            self._seen[name] = value
            self._checks[name] = 0
        self._checks[name] += 1
        return self._checks[name] > self._patience


def _end(name: str, seconds: int) -> None:
    log.critical("worker.stuck", what=name, seconds=seconds, exit_code=EXIT_CODE)
    # No exception is raised, because its handler may be what is stuck.
    os._exit(EXIT_CODE)
