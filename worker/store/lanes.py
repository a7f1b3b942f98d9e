"""What a person does to a lane: hold it, resume it, change its limits. All workers obey at once.

Whether a lane exists is not asked here: `ImportViews.lane` tells.
"""

from typing import Final

from redis.asyncio import Redis

from worker.domain.outcomes import LaneLimits
from worker.store.scripts import Scripts
from worker.store.store import StoreConfig

HOLD_MS: Final = 100 * 365 * 86_400_000
"""A hundred years: how far off the next probe of a held lane is."""


class LaneControl:
    """Writes the lanes. Every method is one script, so one atomic step and one round trip.

    All may be repeated, and raise StoreUnavailableError when the store can't be reached.
    """

    def __init__(self, redis: "Redis", config: StoreConfig) -> None:
        self._scripts = Scripts(redis, config.for_scripts())

    async def hold(self, lane: str, reason: str) -> bool:
        """Let a lane make no call and no probe until `resume`; True when it was not paused before.

        Calls that were claimed before are made and recorded. `reason` must not be empty.
        """
        return bool(
            await self._scripts.call("hold_lane", lane=lane, reason=reason, hold_ms=HOLD_MS)
        )

    async def resume(self, lane: str) -> bool:
        """Reopen a lane, whoever paused it; True when it was paused."""
        return bool(await self._scripts.call("resume_lane", lane=lane, by_hand=True))

    async def set_limits(self, lane: str, limits: LaneLimits, *, by: str) -> None:
        """Change the limits that are known, until they are reset."""
        await self._scripts.call("set_limits", lane=lane, limits=limits.known(), by=by)

    async def reset(self, lane: str) -> None:
        """Forget what was set by hand and what was learned: what is configured holds again."""
        await self._scripts.call("reset_lane", lane=lane)
