"""What an operator does to a lane or a batch. It applies to all workers at once.

These classes do not check whether the lane or batch exists; `ImportViews` does.
"""

from typing import Final

from redis.asyncio import Redis

from worker.domain.outcomes import LaneLimits
from worker.domain.schedules import Schedule
from worker.store.config import StoreConfig
from worker.store.schedules import renew_openings
from worker.store.scripts import Scripts

PAUSE_MS: Final = 100 * 365 * 86_400_000
"""A hundred years: the time until the next probe of a lane that an operator paused."""


class LaneControl:
    """Changes lanes. Every method is one script, so one atomic step and one round trip.

    Every method may be repeated, and raises StoreUnavailableError if the store can't be reached.
    """

    def __init__(self, redis: "Redis", config: StoreConfig) -> None:
        self._scripts = Scripts(redis, config.for_scripts())

    async def pause(self, lane: str, reason: str) -> bool:
        """Pause a lane until `resume`; return True if it was not paused before.

        The lane makes no calls and no probes. Workers still make and record calls that they have
        already claimed. `reason` must not be empty.
        """
        reply = await self._scripts.call("pause_lane", lane=lane, reason=reason, hold_ms=PAUSE_MS)
        return bool(reply["paused"])

    async def resume(self, lane: str) -> bool:
        """Resume a lane, however it was paused; return True if it was paused."""
        return bool((await self._scripts.call("resume_lane", lane=lane))["resumed"])

    async def set_limits(self, lane: str, limits: LaneLimits, *, by: str) -> None:
        """Change the limits that are not None, until they are reset."""
        await self._scripts.call("set_limits", lane=lane, limits=limits.known(), by=by)

    async def reset(self, lane: str) -> None:
        """Forget limits that were set or learned; configured limits apply again."""
        await self._scripts.call("reset_lane", lane=lane)


class BatchControl:
    """Changes batches. Every method is one script, so one atomic step and one round trip.

    Every method may be repeated, and raises StoreUnavailableError if the store can't be reached.
    """

    def __init__(self, redis: "Redis", config: StoreConfig) -> None:
        self._scripts = Scripts(redis, config.for_scripts())

    async def pause(self, batch_id: str, reason: str) -> bool:
        """Pause a batch until `resume`; return True if it was not paused before.

        None of its imports start meanwhile. Imports that have started continue. `reason` must not
        be empty.
        """
        reply = await self._scripts.call("pause_batch", batch_id=batch_id, reason=reason)
        return bool(reply["stopped"])

    async def resume(self, batch_id: str) -> bool:
        """Resume a batch that is paused or waits for its canaries; return True if it was."""
        return bool((await self._scripts.call("resume_batch", batch_id=batch_id))["resumed"])

    async def schedule(self, batch_id: str, schedule: Schedule, *, clear: bool = False) -> bool:
        """Change the members of a batch's schedule that are set; with `clear`, remove the others.

        It applies to every import that has not started. Returns False if the batch is unknown.
        """
        reply = await self._scripts.call(
            "schedule_batch", batch_id=batch_id, clear=clear, schedule=schedule.members()
        )
        if schedule.window:
            await renew_openings(self._scripts)
        return bool(reply["changed"])
