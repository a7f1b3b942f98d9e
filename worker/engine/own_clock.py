"""A worker whose clock is wrong stands down, so that other workers make its calls.

AWS refuses requests whose signature is some minutes off. The lane and its credentials are fine, so
pausing the lane would only stop the workers whose clocks are right.
"""

import time
from collections.abc import Callable
from typing import Final

STAND_DOWN_SECONDS: Final = 30.0


class OwnClock:
    """What AWS's answers show about this machine's clock."""

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
        """Note that a call was answered, so its time was right."""
        self._stands_down_until = None

    def room(self, slots: int, in_flight: int) -> int:
        """Return how many calls may be claimed if `slots` are free.

        None while the worker stands down. Then a single one, whose answer decides what follows.
        """
        if self._stands_down_until is None:
            return slots
        on_trial = self._clock() >= self._stands_down_until
        return 1 if on_trial and slots and not in_flight else 0
