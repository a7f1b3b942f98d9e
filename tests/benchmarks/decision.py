"""What it costs the server to grant a call: alone, with its import, and with its answer."""

from dataclasses import dataclass, replace
from typing import Any, Final

from redis.asyncio import Redis

from tests.support import members
from worker.domain.outcomes import Entrance, LaneLimits
from worker.domain.requests import ImportRequest
from worker.store.store import ImportStore, StoreConfig

DECISIONS: Final = 3000
CONFIG: Final = StoreConfig(
    retention_seconds=60, events_max_length=10_000, lease_seconds=60, settle_seconds=1
)
AMPLE: Final = LaneLimits(start_rate=10_000, start_burst=10_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """The server's milliseconds a script: the mean of many, one after the other."""

    grant_ms: float
    claim_ms: float
    answer_ms: float


async def measure(url: str) -> Cost:
    """Measure it on an empty server."""
    async with Redis.from_url(url, decode_responses=True) as redis:
        store = ImportStore(redis, CONFIG)
        await store.configure(AMPLE, {}, by="the benchmark")
        for n in range(DECISIONS):
            request = ImportRequest.parse(members(f"d{n}"))
            await store.admit(Entrance(import_id=f"i{n}", task_id=f"i{n}"), request, "us-east-1")
        await redis.config_resetstat()
        claims = [claim for _ in range(DECISIONS) for claim in (await store.claim(1))[0]]
        claim_ms = await _milliseconds_a_script(redis)
        for claim in claims:
            await store.grant_more(claim)
        grant_ms = await _milliseconds_a_script(redis)
        for claim in claims:
            answered = replace(claim, answered=True)
            await store.run(answered, job_id="j", operation="", status="", delay_seconds=60)
        return Cost(grant_ms, claim_ms, await _milliseconds_a_script(redis))


async def _milliseconds_a_script(redis: Any) -> float:
    """Return the mean since the last time, and count anew."""
    stats = await redis.info("commandstats")
    await redis.config_resetstat()
    return float(stats["cmdstat_evalsha"]["usec_per_call"]) / 1000
