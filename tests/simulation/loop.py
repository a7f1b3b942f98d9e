"""An event loop whose time jumps to the next event, and clocks that follow it.

Nothing here may wait for anything outside the process: commands to the server are synchronous.
"""

import asyncio
import contextvars
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

EPOCH: Final = 1_800_000_000.0
"""Unix time at the start, on the server's clock."""


class DeadlockError(Exception):
    """Every task waits, and no event is scheduled."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose `time` is virtual: seconds since its creation."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the virtual time."""
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Advance the time."""
        self._now += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError
        if timeout > 0:
            self._loop.pass_time(timeout)
        return []


Skew = contextvars.ContextVar[tuple[float, float]]


@contextmanager
def virtual_clocks(now: Callable[[], float], skew: Skew) -> Iterator[None]:
    """Let `time.monotonic` and `time.time` follow `now`, with the skew of the current context.

    `skew` holds the seconds to add to each of the two: each machine's monotonic clock has its own
    start.
    """
    with (
        patch.object(time, "monotonic", lambda: now() + skew.get()[0]),
        patch.object(time, "time", lambda: EPOCH + now() + skew.get()[1]),
    ):
        yield
