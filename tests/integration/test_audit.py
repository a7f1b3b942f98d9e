"""The audit, on a real server: all sorts of imports pass, and each damage is seen for what it is."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import GENEROUS
from tests.support import CommandLine, members
from worker.domain.decisions import Claim, Doubt
from worker.domain.outcomes import Entrance, LaneLimits, StopRule
from worker.domain.requests import ImportRequest
from worker.domain.states import State
from worker.store.audit import AuditReport, audit
from worker.store.batches import BatchControl
from worker.store.keys import CATALOGUE, Key
from worker.store.promises import Promise
from worker.store.store import ImportStore, StoreConfig

LANE = "default/us-east-1"
RETENTION_SECONDS = 60
CONFIG = StoreConfig(
    retention_seconds=RETENTION_SECONDS,
    events_max_length=10_000,
    lease_seconds=30,
    settle_seconds=0,
)
NOWHERE = "redis://:hidden@127.0.0.1:1/0"


@pytest.fixture
async def store(make_store: Any) -> ImportStore:
    store: ImportStore = await make_store()
    return store


async def look(redis: Any, **changes: Any) -> AuditReport:
    return await audit(
        redis,
        **{
            "lease_seconds": 30,
            "retention_seconds": RETENTION_SECONDS,
            "pause_seconds": 0.01,
            **changes,
        },
    )


def seen(report: AuditReport) -> set[tuple[str, str, str]]:
    return {(found.promise, found.subject, found.sentence) for found in report.violations}


async def admit(store: ImportStore, name: str, batch_id: str = "", **more: Any) -> None:
    entrance = Entrance(import_id=name, task_id=name, batch_id=batch_id)
    request = ImportRequest.parse(members(more.pop("app", f"d{name.replace('-', '')}"), **more))
    await store.admit(entrance, request, "us-east-1")


async def claim(store: ImportStore) -> Claim:
    claims, _ = await store.claim(1)
    assert len(claims) == 1, "exactly one call is due"
    return claims[0]


async def run(store: ImportStore, claimed: Claim, delay_seconds: float = 60) -> None:
    assert await store.run(
        claimed, job_id="j1", operation="Op", status="BUSY", delay_seconds=delay_seconds
    )


async def end(store: ImportStore, claimed: Claim, state: State) -> None:
    error = "" if state is State.SUCCEEDED else "no pool"
    assert await store.finish(
        claimed, state, error=error, job_id="j1", operation="Op", status="DONE"
    )


async def reject(store: ImportStore, name: str, batch_id: str = "") -> None:
    entrance = Entrance(import_id=name, task_id=name, batch_id=batch_id)
    await store.reject(entrance, ("-", "-"), ("-", "-"), "appId: no")


async def fill(store: ImportStore, redis: Any) -> None:
    """Bring an import into every state and every queue that there is, named after where it is."""
    await _fill_over(store)
    await admit(store, "running")
    await run(store, await claim(store))
    await admit(store, "polled")
    await run(store, await claim(store), delay_seconds=0)
    assert (await claim(store)).item.id == "polled"
    await admit(store, "in-doubt")
    await store.doubt(
        await claim(store), Doubt.UNKNOWN, error="reset", delay_seconds=60, in_outage=False
    )
    await admit(store, "delayed")
    await store.requeue(await claim(store), delay_seconds=60, counted=True, error="no")
    await _fill_again_after_doubt(store)
    await admit(store, "starting")
    assert (await claim(store)).item.id == "starting"
    await admit(store, "parked", app="dstarting")
    await _fill_held(store, redis)
    assert (await store.claim(1))[0] == [], "the parked one only moves"
    for name, priority in (("waiting", "normal"), ("urgent", "high")):
        await admit(store, name, priority=priority, idempotencyKey=name)


async def _fill_over(store: ImportStore) -> None:
    await store.announce_batch("over", 5)
    await reject(store, "rejected", "over")
    for name, state in (("succeeded", State.SUCCEEDED), ("failed", State.FAILED)):
        await admit(store, name, "over", idempotencyKey=name)
        await run(store, await claim(store), delay_seconds=0)
        await store.reschedule(await claim(store), stuck=True)
        await end(store, await claim(store), state)
    await store.settle("succeeded", "succeeded")
    await admit(store, "cancelled", "over")
    await store.cancel("cancelled", "wrong pool")
    await admit(store, "alias", "over", app="dsucceeded", idempotencyKey="succeeded")


async def _fill_again_after_doubt(store: ImportStore) -> None:
    await admit(store, "again")
    await store.doubt(
        await claim(store), Doubt.UNKNOWN, error="reset", delay_seconds=0, in_outage=False
    )
    await store.requeue(await claim(store), delay_seconds=60, counted=True, error="no job found")


async def _fill_held(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("stopped", 3)
    await admit(store, "first", "stopped")
    await run(store, await claim(store))
    await admit(store, "held", "stopped")
    assert await BatchControl(redis, CONFIG).stop("stopped", "wait")
    await admit(store, "held-too", "stopped")
    await store.announce_batch("canaries", 3, StopRule(canary=1, stop_percent=None))
    await admit(store, "canary", "canaries")
    await run(store, await claim(store))
    await admit(store, "behind", "canaries")


async def test_all_sorts_of_imports_pass(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    report = await look(redis)
    assert seen(report) == set()
    assert report.held
    assert report.not_checkable == 0
    assert report.examined == {
        Promise.OUTCOME: 18,
        Promise.PLACE: 14,
        Promise.TARGET: 9,
        Promise.BATCH: 3,
        Promise.LANE: 1,
        Promise.TASK: 4,
        Promise.OVERDUE: 12,
        Promise.RETENTION: 40,
    }


async def test_an_empty_store_passes(redis: Any) -> None:
    report = await look(redis)
    assert report.held
    assert set(report.examined.values()) == {0}
