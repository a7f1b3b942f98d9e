"""What an import's history keeps: each change of state, once, for as long as the record."""

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import MakeStore
from tests.support import members
from worker.domain.claims import Claim, Doubt
from worker.domain.history import Line, What
from worker.domain.outcomes import Entrance, StopRule
from worker.domain.requests import ImportRequest
from worker.domain.states import TERMINAL, State
from worker.store.batches import BatchControl
from worker.store.scripts import LIBRARY, library_text, script_texts
from worker.store.store import ImportStore, StoreConfig
from worker.store.views import ImportViews

on_both = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


@pytest.fixture
def views(redis: Any) -> ImportViews:
    return ImportViews(redis)


async def admit(store: ImportStore, import_id: str = "i1", app: str = "", **more: Any) -> None:
    request = ImportRequest.parse(members(app or f"d{import_id}", **more))
    await store.admit(Entrance(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(10))[0]
    return replace(claim, answered=True)


async def run(store: ImportStore, claim: Claim) -> None:
    assert await store.run(claim, job_id="j1", operation="", status="CREATING", delay_seconds=0)


async def finish(store: ImportStore, claim: Claim, state: State, error: str = "") -> None:
    assert await store.finish(claim, state, error=error, job_id="", operation="", status="")


async def lines(views: ImportViews, import_id: str = "i1") -> list[Line]:
    now_ms, found = await views.history(import_id)
    times = [time for line in found for time in (line.since_ms, line.at_ms)]
    assert times == sorted(times)
    assert all(now_ms - 60_000 < time <= now_ms for time in times)
    return found


async def told(views: ImportViews, import_id: str = "i1") -> list[tuple[str, int, dict[str, Any]]]:
    """Return what happened, how often in a row, and the details."""
    return [(line.what, line.times, dict(line.details)) for line in await lines(views, import_id)]


@on_both
async def test_an_import_without_trouble_has_four_lines_however_often_it_is_polled(
    store: ImportStore, views: ImportViews
) -> None:
    await admit(store)
    await admit(store)
    await run(store, await claim_one(store))
    for _ in range(5):
        await store.reschedule(await claim_one(store), counted=True, status="RUNNING", settled=True)
    await finish(store, await claim_one(store), State.SUCCEEDED)
    assert await told(views) == [
        ("accepted", 1, {}),
        ("start", 1, {"attempt": 1}),
        ("running", 1, {"job_id": "j1"}),
        ("succeeded", 1, {"job_id": "j1"}),
    ]


@on_both
async def test_throttled_starts_are_one_line_that_counts(
    store: ImportStore, views: ImportViews
) -> None:
    await admit(store)
    for _ in range(150):
        await store.requeue(await claim_one(store), why=What.THROTTLED)
    await run(store, await claim_one(store))
    accepted, start, throttled, running = await told(views)
    assert (accepted[0], start) == ("accepted", ("start", 1, {"attempt": 1}))
    assert throttled == ("throttled", 150, {"seconds": 0})
    assert running[0] == "running"
    line = (await lines(views))[2]
    assert line.since_ms < line.at_ms


async def test_doubts_retries_and_conflicts_are_told_with_their_reasons(
    store: ImportStore, views: ImportViews
) -> None:
    await admit(store)
    start = await claim_one(store)
    await store.doubt(start, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=0, in_outage=False)
    for _ in range(3):  # AWS does not say: asked again, which is no news
        again = await claim_one(store)
        await store.doubt(again, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=0, in_outage=False)
    inquiry = await claim_one(store)
    await store.requeue(inquiry, counted=True, delay_seconds=0, error="HTTP 504")
    for _ in range(2):
        await store.requeue(await claim_one(store), conflict=True, error="a job is pending")
    await store.requeue(await claim_one(store), counted=True, error="a job is pending")
    await store.doubt(
        await claim_one(store), Doubt.UNKNOWN, error="reset", delay_seconds=0, in_outage=False
    )
    await run(store, await claim_one(store))
    await finish(store, await claim_one(store), State.FAILED, "no pool")
    assert await told(views) == [
        ("accepted", 1, {}),
        ("start", 1, {"attempt": 1}),
        ("doubt", 1, {"doubt": "unknown", "error": "HTTP 504"}),
        ("retry", 1, {"error": "HTTP 504", "seconds": 0}),
        ("start", 1, {"attempt": 2}),
        ("conflict", 2, {"error": "a job is pending", "seconds": 0}),
        ("retry", 1, {"error": "a job is pending", "seconds": 0}),
        ("start", 1, {"attempt": 2}),
        ("doubt", 1, {"doubt": "unknown", "error": "reset"}),
        ("running", 1, {"job_id": "j1", "adopted": True}),
        ("failed", 1, {"error": "no pool", "job_id": "j1"}),
    ]


async def test_silence_a_job_that_was_gone_and_one_that_is_stuck_are_told(
    make_store: MakeStore, views: ImportViews
) -> None:
    store = await make_store(lease_seconds=0.01)
    await admit(store)
    await claim_one(store)

    async def silent() -> Claim:
        while True:
            claims, wait_seconds = await store.claim(10)
            if claims:
                return replace(claims[0], answered=True)
            assert wait_seconds is not None

    await run(store, await silent())
    await store.reschedule(await claim_one(store), stuck=True)
    await store.doubt(
        await claim_one(store), Doubt.GONE, error="HTTP 404", delay_seconds=0, in_outage=False
    )
    await store.reschedule(await claim_one(store), status="RUNNING", settled=True)
    await claim_one(store)
    await finish(store, await silent(), State.TIMED_OUT, "too long")
    assert [(line.what, line.details.get("call")) for line in await lines(views)] == [
        ("accepted", None),
        ("start", None),
        ("silent", "start"),
        ("running", None),
        ("stuck", None),
        ("doubt", None),
        ("found", None),
        ("silent", "poll"),
        ("timed_out", None),
    ]


async def test_waiting_for_a_target_or_a_batch_is_told(
    store: ImportStore, redis: Any, views: ImportViews
) -> None:
    await admit(store, "i0", "dsame")
    first = await claim_one(store)
    await admit(store, "i1", "dsame")
    await store.announce_batch("b", 2, StopRule(canary=1))
    await admit(store, "c0", batchId="b")
    await admit(store, "c1", batchId="b")
    (canary,), _ = await store.claim(10)
    await finish(store, first, State.SUCCEEDED)
    await BatchControl(redis, CONFIG).resume("b")
    claims = [claim.item.id for claim in (await store.claim(10))[0]]
    assert sorted(claims) == ["c1", "i1"]
    assert await told(views) == [
        ("accepted", 1, {}),
        ("parked", 1, {"holder": "i0"}),
        ("start", 1, {"attempt": 1}),
    ]
    assert [line[0] for line in await told(views, "c1")] == [
        "accepted",
        "held",
        "released",
        "start",
    ]
    assert await store.cancel(canary.item.id, "wrong pool")
    assert (await told(views, "c0"))[-1] == ("cancel_asked", 1, {"error": "wrong pool"})
    await store.requeue(canary)
    assert [line[0] for line in await told(views, "c0")][-2:] == ["given_back", "cancelled"]


@on_both
async def test_a_history_is_bounded_and_keeps_the_newest(
    store: ImportStore, views: ImportViews
) -> None:
    await admit(store)
    for n in range(120):
        claim = await claim_one(store)
        await store.requeue(claim, why=(What.THROTTLED, What.LANE_PAUSED)[n % 2])
    await store.cancel("i1", "enough")
    found = await lines(views)
    assert len(found) == 100
    assert found[-1].what == "cancelled"


async def test_what_is_rejected_at_birth_has_its_line_and_all_expire_with_their_records(
    store: ImportStore, redis: Any, views: ImportViews
) -> None:
    bad = Entrance(import_id="bad", task_id="bad")
    await store.reject(bad, ("-", "-"), ("default", "-"), "appId: is required")
    assert await told(views, "bad") == [("rejected", 1, {"error": "appId: is required"})]
    await admit(store)
    assert await redis.pttl("imports:history:i1") == -1, "it is under way"
    await finish(store, await claim_one(store), State.FAILED, "no pool")
    item = await store.load("i1")
    assert item is not None
    await redis.delete("imports:history:i1")  # it ended before histories were kept
    await store.retry(item)
    assert await told(views) == [("retried", 1, {"retry_id": "i1:retry-1"})]
    assert await told(views, "i1:retry-1") == [("accepted", 1, {"retry_of": "i1"})]
    await store.cancel("i1:retry-1", "enough")
    for import_id in ("bad", "i1", "i1:retry-1"):
        record = await redis.pttl(f"imports:import:{import_id}")
        history = await redis.pttl(f"imports:history:{import_id}")
        assert 0 < history <= 60_000
        assert abs(record - history) < 1000


def test_the_scripts_note_what_has_a_name_and_nothing_else() -> None:
    text = "".join((*map(library_text, LIBRARY), *script_texts().values()))
    noted = set(re.findall(r"note\([^,]+, [^,]+, '(\w+)'", text.replace("math.floor(now)", "now")))
    noted |= set(re.findall(r"and '(\w+)'", script_texts()["requeue"]))
    by_python = {What.THROTTLED, What.LANE_PAUSED, What.GIVEN_BACK, What.NOT_STARTED}
    assert noted | by_python | TERMINAL == set(What)
