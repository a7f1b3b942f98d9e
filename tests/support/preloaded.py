"""What the fork server imports last: its own objects are exempt from garbage collection."""

import asyncio
import gc

from worker.operations.aws import Aws


async def _warm_up() -> None:
    """Fill the caches of the AWS SDK, as each worker does when it starts."""
    aws = Aws(timeout_seconds=1, max_connections=1)
    await aws.warm_up()
    await aws.close()


asyncio.run(_warm_up())
gc.collect()
gc.freeze()
