"""What the server needs to grant a call: alone, with its import, and with its answer."""

from dataclasses import dataclass, replace
from typing import Any, Final

from redis.asyncio import Redis

from tests.support import members
from worker.domain.answers import Job
from worker.domain.decisions import Run
from worker.domain.outcomes import Envelope, LaneLimits
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.store import ImportStore

DECISIONS: Final = 3000
CONFIG: Final = StoreConfig(
    retention_seconds=60, events_max_length=10_000, lease_seconds=60, settle_seconds=1
)
UNLIMITED: Final = LaneLimits(start_rate=10_000, start_burst=10_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """The server's milliseconds per script, as a mean of many runs in sequence."""

    grant_ms: float
    claim_ms: float
    answer_ms: float


async def measure(url: str) -> Cost:
    """Measure the cost on an empty server."""
    async with Redis.from_url(url, decode_responses=True) as redis:
        store = ImportStore(redis, CONFIG)
        await store.configure(UNLIMITED, {}, by="the benchmark")
        for n in range(DECISIONS):
            request = OPERATIONS.parse(members(f"d{n}"))
            await store.admit(Envelope(import_id=f"i{n}", task_id=f"i{n}"), request, "us-east-1")
        await redis.config_resetstat()
        claims = [claim for _ in range(DECISIONS) for claim in (await store.claim(1))[0]]
        claim_ms = await _milliseconds_a_script(redis)
        for claim in claims:
            await store.grant_more(claim)
        grant_ms = await _milliseconds_a_script(redis)
        for claim in claims:
            answered = replace(claim, answered=True)
            await store.record(answered, Run(Job(job_id="j"), 60))
        return Cost(grant_ms, claim_ms, await _milliseconds_a_script(redis))


async def _milliseconds_a_script(redis: Any) -> float:
    """Return the mean since the last call, and reset the statistics."""
    stats = await redis.info("commandstats")
    await redis.config_resetstat()
    return float(stats["cmdstat_evalsha"]["usec_per_call"]) / 1000
