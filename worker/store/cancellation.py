"""Ends tasks that talk to the store."""

import asyncio
from collections.abc import Iterable
from typing import Final

CANCEL_AGAIN_SECONDS: Final = 0.1


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and again those that have not noticed; return when all have ended.

    Before Python 3.12, `asyncio.wait_for`, with which redis-py sends, may lose a cancellation
    (python/cpython#107547). The task would then go on waiting for requests or the next round.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
