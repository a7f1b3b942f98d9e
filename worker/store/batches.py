"""What a person does to a batch: stop it, and let it go on.

Whether a batch exists is not asked here: `ImportViews.batch` tells.
"""

from redis.asyncio import Redis

from worker.store.scripts import Scripts
from worker.store.store import StoreConfig


class BatchControl:
    """Writes the batches' gates. Every method is one script, so one atomic step and one round trip.

    All may be repeated, and raise StoreUnavailableError when the store can't be reached.
    """

    def __init__(self, redis: "Redis", config: StoreConfig) -> None:
        self._scripts = Scripts(redis, config.for_scripts())

    async def stop(self, batch_id: str, reason: str) -> bool:
        """Let none of a batch's imports start until it is resumed; True when it went on before.

        Those that have started go on. `reason` must not be empty.
        """
        return bool(await self._scripts.call("stop_batch", batch_id=batch_id, reason=reason))

    async def resume(self, batch_id: str) -> bool:
        """Let a batch go on that was stopped or waits for its canaries; True when it did."""
        return bool(await self._scripts.call("resume_batch", batch_id=batch_id))
