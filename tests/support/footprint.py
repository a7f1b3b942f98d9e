"""What imports cost the store: bytes by family of keys, while imports run and after their end."""

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

from celery import Celery

from tests.support import recording
from tests.support.stores import SEEN
from worker.announcer.celery import CeleryAnnouncer
from worker.domain.answers import Job
from worker.domain.claims import Claim
from worker.domain.decisions import End, PollAgain, Run
from worker.domain.outcomes import Envelope, LaneLimits
from worker.domain.requests import derive_import_id
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.keys import EVENTS
from worker.store.store import ImportStore

IMPORTS: Final = 200
"""More than the 128 elements up to which a sorted set is a compact list."""

CELERY: Final = "celery-task-meta"
CONFIG: Final = StoreConfig(
    retention_seconds=604_800, events_max_length=10_000, lease_seconds=60, settle_seconds=1
)
BATCH: Final = "migration-2026-11"
AUTH: Final = "ImportBackendAuth"

Footprint = dict[str, float]
"""Bytes of an import by family of keys, without the stream of events, which is trimmed."""


async def footprints(redis: Any, url: str) -> AsyncIterator[tuple[str, Footprint]]:
    """Bring a batch of imports to its end in an empty store; yield what they cost on the way.

    Ids are as long as in production. Yields (waiting, running, finished).
    """
    store = ImportStore(redis, CONFIG)
    celery = Celery("footprint", broker=url, backend=url, set_as_current=False)
    announcer = CeleryAnnouncer(celery, OPERATIONS.tasks, store.note_tasks_done)
    unlimited = LaneLimits(
        start_rate=100_000, start_burst=100_000, poll_rate=100_000, poll_burst=100_000
    )
    try:
        await store.configure(unlimited, {}, by="the measurement")
        await recording.learn(store, "default/us-east-1", SEEN)
        empty = await _bytes_by_family(redis)
        for moment, step in (("waiting", _admit), ("running", _run), ("finished", _finish)):
            await step(store, announcer)
            now = await _bytes_by_family(redis)
            yield moment, {name: (now[name] - empty[name]) / IMPORTS for name in now}
    finally:
        announcer.close()
        celery.close()


async def _bytes_by_family(redis: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    async for key in redis.scan_iter(count=1000):
        family = ":".join(key.split(":")[:2]) if key.startswith("imports:") else key[: len(CELERY)]
        if family != EVENTS.name:
            found[family] += await redis.memory_usage(key, samples=0)
    return found


def _request(number: int) -> Any:
    return OPERATIONS.parse(
        {
            "appId": f"d{number:013d}",
            "backendEnvironmentName": "staging",
            "userPoolId": "us-east-1_AbCdEf123",
            "webClientId": "1example23456789abcdefghi0",
            "nativeClientId": "2example23456789abcdefghi0",
            "batchId": BATCH,
        }
    )


async def _admit(store: ImportStore, announcer: CeleryAnnouncer) -> None:
    for number in range(IMPORTS):
        import_id = derive_import_id(BATCH, number)
        envelope = Envelope(import_id=import_id, task_id=import_id, batch_id=BATCH)
        request = _request(number)
        await store.admit(envelope, request, "us-east-1")
        await announcer.waiting([envelope], [f"{request.app_id}/staging"])


async def _run(store: ImportStore, announcer: CeleryAnnouncer) -> None:
    for claim in await _claim_all(store):
        job_id = str(uuid.uuid5(uuid.NAMESPACE_URL, claim.item.id))
        job = Job(job_id=job_id, operation=AUTH, status="CREATING", updated="1764440000.123")
        await store.record(claim, Run(job, 0))
        await announcer.running(claim.item, job.job_id, job.status)
    for claim in await _claim_all(store):
        job = Job(operation=AUTH, status="IN_PROGRESS", updated="1764440001.5")
        await store.record(claim, PollAgain(job, 0, stuck=False))


async def _finish(store: ImportStore, announcer: CeleryAnnouncer) -> None:
    for claim in await _claim_all(store):
        job = Job(operation=AUTH, status="COMPLETED")
        recorded = await store.record(claim, End(State.SUCCEEDED, "", job))
        assert recorded.ended is not None
        await announcer.ended(recorded.ended)
    await announcer.settled()


async def _claim_all(store: ImportStore) -> list[Claim]:
    claims: list[Claim] = []
    while len(claims) < IMPORTS:
        claims += (await store.claim(IMPORTS, slots=2 * IMPORTS))[0]
    return [replace(claim, answered=True) for claim in claims]
