"""A worker whose own clock is wrong stands down, so that others do the work that it can't do.

AWS refuses what is signed at a time that is minutes off. Nothing is wrong with the lane, nor with
its credentials: to pause it would hold up every worker whose clock is right.
"""

import time
from collections.abc import Callable
from typing import Final

STAND_DOWN_SECONDS: Final = 30.0


class OwnClock:
    """What AWS's answers say about the clock of this process's machine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stands_down_until: float | None = None

    def refused(self) -> bool:
        """Note that a call was refused for its time; return whether that is news."""
        now = self._clock()
        is_news = self._stands_down_until is None or now >= self._stands_down_until
        if is_news:
            self._stands_down_until = now + STAND_DOWN_SECONDS
        return is_news

    def accepted(self) -> None:
        """Note that a call was answered: its time was right."""
        self._stands_down_until = None

    def room(self, slots: int, in_flight: int) -> int:
        """Return how many calls may be claimed with so many `slots` free.

        No call while the worker stands down; after that a single one, which tells how to go on.
        """
        if self._stands_down_until is None:
            return slots
        on_trial = self._clock() >= self._stands_down_until
        return 1 if on_trial and slots and not in_flight else 0
