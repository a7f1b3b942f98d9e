"""Tasks end although the driver loses cancellations."""

import asyncio
from contextlib import suppress

from worker.store.cancellation import cancel_all


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    lost = 0

    async def lose_two() -> None:
        nonlocal lost
        for lost in range(3):  # noqa: B007 - it is asserted below
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def do_nothing() -> None: ...

    task = asyncio.create_task(lose_two())
    await asyncio.sleep(0)
    await cancel_all([task, asyncio.create_task(do_nothing())])
    assert task.cancelled()
    assert lost == 2
