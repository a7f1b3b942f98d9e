"""The sandbox's time: durations from the monotonic clock, dates from the wall clock."""

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment: seconds since the simulation began, and Unix time in seconds."""

    elapsed: float
    wall: float


class Clock:
    """A clock whose `elapsed` time begins when it is created. It needs a running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    def now(self) -> Instant:
        """Read both clocks."""
        return Instant(elapsed=self._loop.time() - self._started, wall=time.time())
