"""How fast a relay tries again: after a failure of one event, and after failures of the sink."""

import random
from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 300.0
"""The longest time between two attempts of an event."""

SINK_LONGEST_SECONDS: Final = 60.0
"""The longest time for which a sink that fails is left alone."""

PATIENCE_SECONDS: Final = 3600.0
"""The longest time for which a sink may ask to be left alone."""

Draw = Callable[[], float]
"""Returns a random number from 0 to 1."""


def backoff(failures: int, longest: float, draw: Draw = random.random) -> float:
    """Return the time until the next attempt: twice as long each time, half of it at random."""
    seconds = min(longest, FIRST_SECONDS * 2.0 ** min(failures - 1, 30))
    return seconds * (0.5 + draw() / 2)


class Pace:
    """Whether a sink takes events at present, judged by its answers."""

    def __init__(self, draw: Draw = random.random) -> None:
        self._draw = draw
        self._failures = 0
        self._failed_at = 0.0
        self.accepted = 0
        """How many events the sink has accepted."""
        self.blocked_until = 0.0
        """Until when nothing is sent."""

    @property
    def is_failing(self) -> bool:
        """Whether the last answer was a failure. Then one attempt is made at a time."""
        return self._failures > 0

    def succeeded(self) -> None:
        """Note that the sink has accepted an event."""
        self.accepted += 1
        self._failures = 0

    def failed(self, began_at: float, now: float, retry_after: float | None) -> None:
        """Note that an attempt failed. Attempts that were made at the same time count once."""
        if began_at >= self._failed_at:
            self._failures += 1
        self._failed_at = now
        seconds = backoff(self._failures, SINK_LONGEST_SECONDS, self._draw)
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, PATIENCE_SECONDS))
        self.blocked_until = max(self.blocked_until, now + seconds)
