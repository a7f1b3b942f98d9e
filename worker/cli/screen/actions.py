"""What keys do to a batch or a lane. Every function returns a sentence about the result."""

from collections import Counter

from redis.asyncio import Redis

from config.settings import Settings
from worker.cli.client import DEFAULT_REASON
from worker.cli.retry import DEFAULT_CHOICE, retry_batch_id_of, retry_members
from worker.domain.outcomes import RetryVerdict
from worker.parameters import store_config
from worker.store.batchview import BatchCounts
from worker.store.control import BatchControl, LaneControl
from worker.store.store import ImportStore
from worker.store.views import ImportViews


class Actions:
    """Changes batches and lanes. Raises StoreUnavailableError if the store can't be reached."""

    def __init__(self, redis: "Redis", settings: Settings) -> None:
        config = store_config(settings)
        self._views = ImportViews(redis)
        self._store = ImportStore(redis, config)
        self._controls: dict[str, BatchControl | LaneControl] = {
            "batch": BatchControl(redis, config),
            "lane": LaneControl(redis, config),
        }

    async def pause(self, kind: str, name: str, reason: str) -> str:
        """Pause a batch or a lane until it is resumed."""
        fresh = await self._controls[kind].pause(name, reason.strip() or DEFAULT_REASON)
        return f"The {kind} {name} {'is' if fresh else 'was already'} paused."

    async def resume(self, kind: str, name: str) -> str:
        """Resume a batch or a lane."""
        resumed = await self._controls[kind].resume(name)
        return f"The {kind} {name} {'is resumed' if resumed else 'was not paused'}."

    async def retry(self, batch: BatchCounts) -> str:
        """Retry the imports of a batch that failed, timed out or were rejected."""
        retry_id = await retry_batch_id_of(self._views, batch.batch_id, DEFAULT_CHOICE)
        if not retry_id:
            return f"Batch {batch.batch_id} has no import to retry."
        results = await retry_members(
            self._store, self._views, batch, DEFAULT_CHOICE, retry_id, shown=False
        )
        numbers = Counter(verdict for _, verdict in results)
        retried = numbers.pop(RetryVerdict.RETRIED, 0)
        already = numbers.pop(RetryVerdict.ALREADY, 0)
        return (
            f"Batch {batch.batch_id}: {retried:,} tried again as batch {retry_id}, "
            f"{already:,} had already been retried, {numbers.total():,} can't be retried."
        )
