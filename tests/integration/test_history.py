"""What an import's history keeps: each change of state, once, for as long as the record."""

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.support import members, recording
from tests.support.stores import MakeStore
from worker.domain.claims import Claim, Doubt
from worker.domain.history import Line, What
from worker.domain.outcomes import Envelope, StopRule
from worker.domain.states import TERMINAL, State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import BatchControl
from worker.store.scripts import LIBRARY, library_text, script_texts
from worker.store.store import ImportStore
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
    request = OPERATIONS.parse(members(app or f"d{import_id}", **more))
    await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(10))[0]
    return replace(claim, answered=True)


async def run(store: ImportStore, claim: Claim) -> None:
    assert await recording.run(
        store, claim, job_id="j1", operation="", status="CREATING", delay_seconds=0
    )


async def finish(store: ImportStore, claim: Claim, state: State, error: str = "") -> None:
    assert await recording.finish(
        store, claim, state, error=error, job_id="", operation="", status=""
    )


async def throttle(store: ImportStore, redis: Any, claim: Claim) -> None:
    """Answer with a 429 that the limiter forgets at once."""
    await recording.throttle(store, claim)
    await redis.delete("imports:limiter:default/us-east-1:start")


async def lines(views: ImportViews, import_id: str = "i1") -> list[Line]:
    now_ms, found = await views.history(import_id)
    times = [time for line in found for time in (line.since_ms, line.at_ms)]
    assert times == sorted(times)
    assert all(now_ms - 60_000 < time <= now_ms for time in times)
    return found


async def history_of(
    views: ImportViews, import_id: str = "i1"
) -> list[tuple[str, int, dict[str, Any]]]:
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
        await recording.poll_again(store, await claim_one(store), status="RUNNING")
    await finish(store, await claim_one(store), State.SUCCEEDED)
    assert await history_of(views) == [
        ("accepted", 1, {}),
        ("start", 1, {"attempt": 1}),
        ("running", 1, {"job_id": "j1"}),
        ("succeeded", 1, {"job_id": "j1"}),
    ]


@pytest.mark.parametrize("ends_at_once", [False, True])
async def test_what_a_record_shows_is_written_once_anything_else_happens(
    store: ImportStore, views: ImportViews, redis: Any, *, ends_at_once: bool
) -> None:
    await admit(store)
    if not ends_at_once:
        await run(store, await claim_one(store))
    job_id = "j1" if ends_at_once else ""
    await recording.finish(
        store, await claim_one(store), State.FAILED, error="no pool", job_id=job_id
    )
    assert not await redis.exists("imports:history:i1")
    shown = await lines(views)
    assert [line.what for line in shown] == (
        ["accepted", "start", *([] if ends_at_once else ["running"]), "failed"]
    )
    item = await store.load("i1")
    assert item is not None
    await store.retry(item)
    *written, retried = await lines(views)
    assert retried.what == "retried"
    assert written == shown


@on_both
async def test_throttled_starts_are_one_line_with_a_count(
    store: ImportStore, views: ImportViews, redis: Any
) -> None:
    await admit(store)
    for _ in range(150):
        await throttle(store, redis, await claim_one(store))
    await run(store, await claim_one(store))
    accepted, start, throttled, running = await history_of(views)
    assert (accepted[0], start) == ("accepted", ("start", 1, {"attempt": 1}))
    assert throttled == ("throttled", 150, {"seconds": 0})
    assert running[0] == "running"
    line = (await lines(views))[2]
    assert line.since_ms < line.at_ms


async def test_unknown_outcomes_retries_and_conflicts_are_recorded_with_their_reasons(
    store: ImportStore, views: ImportViews
) -> None:
    await admit(store)
    start = await claim_one(store)
    await recording.doubt(
        store, start, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=0, in_outage=False
    )
    for _ in range(3):  # AWS gives no definite answer: the repeated check adds no line
        again = await claim_one(store)
        await recording.doubt(
            store, again, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=0, in_outage=False
        )
    inquiry = await claim_one(store)
    await recording.retry(store, inquiry, delay_seconds=0, error="HTTP 504")
    for _ in range(2):
        await recording.wait_behind(store, await claim_one(store), error="a job is pending")
    await recording.retry(store, await claim_one(store), error="a job is pending")
    await recording.doubt(
        store,
        await claim_one(store),
        Doubt.UNKNOWN,
        error="reset",
        delay_seconds=0,
        in_outage=False,
    )
    await run(store, await claim_one(store))
    await finish(store, await claim_one(store), State.FAILED, "no pool")
    assert await history_of(views) == [
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


async def test_missing_answers_missing_jobs_and_stuck_jobs_are_recorded(
    make_store: MakeStore, views: ImportViews
) -> None:
    store = await make_store(lease_seconds=0.01)
    await admit(store)
    await claim_one(store)

    async def unanswered() -> Claim:
        while True:
            claims, wait_seconds = await store.claim(10)
            if claims:
                return replace(claims[0], answered=True)
            assert wait_seconds is not None

    await run(store, await unanswered())
    await recording.poll_again(store, await claim_one(store), stuck=True)
    await recording.doubt(
        store,
        await claim_one(store),
        Doubt.GONE,
        error="HTTP 404",
        delay_seconds=0,
        in_outage=False,
    )
    await recording.poll_again(store, await claim_one(store), status="RUNNING")
    await claim_one(store)
    await finish(store, await unanswered(), State.TIMED_OUT, "too long")
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


async def test_waiting_for_a_target_or_a_batch_is_recorded(
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
    assert await history_of(views) == [
        ("accepted", 1, {}),
        ("parked", 1, {"holder": "i0"}),
        ("start", 1, {"attempt": 1}),
    ]
    assert [line[0] for line in await history_of(views, "c1")] == [
        "accepted",
        "held",
        "released",
        "start",
    ]
    assert await store.cancel(canary.item.id, "wrong pool")
    assert (await history_of(views, "c0"))[-1] == ("cancel_asked", 1, {"error": "wrong pool"})
    await recording.requeue(store, canary)
    assert [line[0] for line in await history_of(views, "c0")][-2:] == ["given_back", "cancelled"]


@on_both
async def test_a_history_is_bounded_and_keeps_the_newest(
    store: ImportStore, views: ImportViews, redis: Any
) -> None:
    await admit(store)
    for n in range(120):
        claim = await claim_one(store)
        await (throttle(store, redis, claim) if n % 2 else recording.requeue(store, claim))
    await store.cancel("i1", "enough")
    found = await lines(views)
    assert len(found) == 100
    assert found[-1].what == "cancelled"


async def test_an_import_rejected_at_admission_has_a_line_and_histories_expire_with_their_records(
    store: ImportStore, redis: Any, views: ImportViews
) -> None:
    bad = Envelope(import_id="bad", task_id="bad")
    await store.reject(bad, ("-", "-"), ("default", "-"), "appId: is required")
    assert await history_of(views, "bad") == [("rejected", 1, {"error": "appId: is required"})]
    await admit(store)
    await throttle(store, redis, await claim_one(store))
    assert await redis.pttl("imports:history:i1") == -1, "it has not ended"
    await finish(store, await claim_one(store), State.FAILED, "no pool")
    item = await store.load("i1")
    assert item is not None
    await store.retry(item)
    assert (await history_of(views))[-1] == ("retried", 1, {"retry_id": "i1:retry-1"})
    assert await history_of(views, "i1:retry-1") == [("accepted", 1, {"retry_of": "i1"})]
    for import_id in ("bad", "i1"):
        record = await redis.pttl(f"imports:import:{import_id}")
        history = await redis.pttl(f"imports:history:{import_id}")
        assert 0 < history <= 60_000
        assert abs(record - history) < 1000


def test_the_scripts_record_only_entries_that_have_a_sentence() -> None:
    text = "".join((*map(library_text, LIBRARY), *script_texts().values()))
    noted = set(re.findall(r"(?:note|line_at)\((?:[^(,]+, )+'(\w+)'", text))
    by_python = {What.THROTTLED, What.LANE_PAUSED, What.GIVEN_BACK, What.NOT_STARTED}
    by_python |= {What.RETRY, What.CONFLICT, What.UNCHECKED}
    assert noted | by_python | TERMINAL == set(What)
