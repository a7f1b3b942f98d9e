"""What people see of the store, read from a real server that the real scripts wrote to."""

import asyncio
import json
from typing import Any

import pytest

from tests.support import members, recording
from tests.support.stores import GENEROUS
from worker.domain.claims import Claim, Doubt
from worker.domain.outcomes import Envelope, LaneLimits
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore
from worker.store.views import ImportViews

LANE = "default/us-east-1"


@pytest.fixture
async def store(make_store: Any) -> ImportStore:
    store: ImportStore = await make_store()
    return store


@pytest.fixture
def views(redis: Any) -> ImportViews:
    return ImportViews(redis)


async def admit(store: ImportStore, app: str, batch_id: str = "", **more: Any) -> None:
    envelope = Envelope(import_id=f"import-{app}", task_id=f"import-{app}", batch_id=batch_id)
    request = OPERATIONS.parse(members(more.pop("target", app), **more))
    await store.admit(envelope, request, "us-east-1")


async def run(store: ImportStore, claim: Claim, delay_seconds: float = 0) -> None:
    await recording.run(
        store,
        claim,
        job_id="j1",
        operation="Import",
        status="CREATING",
        delay_seconds=delay_seconds,
    )


async def finish(store: ImportStore, claim: Claim, state: State, error: str = "") -> None:
    await recording.finish(store, claim, state, error=error, job_id="", operation="", status="")


async def test_unknown_things_are_none_or_empty(views: ImportViews) -> None:
    assert await views.find("nobody") is None
    assert await views.batch("nobody") is None
    assert await views.members("nobody") == []
    assert await views.lanes() == await views.busy_lanes() == []
    assert await views.newest_event_id() == "0"
    assert await views.events("0") == []


async def test_a_batch_is_complete_when_all_that_was_announced_is_over(
    store: ImportStore, views: ImportViews
) -> None:
    await store.announce_batch("b", 2)
    await admit(store, "d1", "b")
    (claim,), _ = await store.claim(10)
    await finish(store, claim, State.SUCCEEDED)
    counts = await views.batch("b")
    assert counts is not None
    assert (counts.accepted, counts.expected, counts.total, counts.finished) == (1, 2, 2, 1)
    assert not counts.completed

    await admit(store, "d2", "b")
    (claim,), _ = await store.claim(10)
    await finish(store, claim, State.FAILED, "no pool")
    counts = await views.batch("b")
    assert counts is not None
    assert counts.completed
    assert counts.unsuccessful == 1
    once = {State.SUCCEEDED, State.FAILED}
    assert counts.by_state == {state: int(state in once) for state in State}
    assert counts.completed_at_ms > 0


async def test_members_come_in_order_and_by_state_over_many_pages(
    store: ImportStore, views: ImportViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.store.views.READ_AT_ONCE", 3)
    for number in range(10):
        await admit(store, f"d{number}", "b")
    claims, _ = await store.claim(10)
    for claim in claims[::3]:
        await finish(store, claim, State.FAILED, "no pool")
    everybody = [f"import-d{number}" for number in range(10)]
    assert [item.id for item in await views.members("b")] == everybody
    assert [item.id for item in await views.members("b", limit=4)] == everybody[:4]
    failed = await views.members("b", {State.FAILED}, limit=3)
    assert [(item.id, item.error) for item in failed] == [
        (import_id, "no pool") for import_id in everybody[:9:3]
    ]
    assert await views.members("b", {State.CANCELLED}) == []


async def test_lanes_show_their_load_pause_and_throttle(
    store: ImportStore, views: ImportViews
) -> None:
    await store.configure(GENEROUS, {"other/eu-west-1": LaneLimits(max_running=7)}, by="w1")
    # Lanes that are due share a claim, and an idle lane is due until a conductor has looked at it.
    assert (await store.claim(1))[0] == []
    for app in ("d1", "d2", "d3"):
        await admit(store, app)
    claims, _ = await store.claim(2)
    await run(store, claims[0], 60)
    await recording.pause_lane(
        store, LANE, "expired", probe=False, delay_seconds=30, delay_max_seconds=60
    )
    (lane,) = await views.busy_lanes()
    assert (lane.name, lane.account, lane.waiting, lane.running) == (LANE, "default", 1, 2)
    assert lane.paused_reason == "expired"
    assert 20 < lane.paused_seconds <= 30
    assert not lane.is_throttled

    assert [view.name for view in await views.lanes()] == [LANE, "other/eu-west-1"]
    idle = (await views.lanes())[1]
    assert (idle.waiting, idle.running, idle.max_running) == (0, 0, 7)
    assert idle.configured is not None
    assert idle.configured.by == "w1"


async def test_whereabouts_show_what_an_import_waits_for(
    store: ImportStore, views: ImportViews
) -> None:
    async def where(app: str) -> Any:
        item = await views.find(f"import-{app}")
        assert item is not None
        return await views.whereabouts(item)

    for app in ("d1", "d2", "d3"):
        await admit(store, app)
    await admit(store, "d4", target="d1")
    assert [(await where(app)).ahead for app in ("d1", "d2", "d3", "d4")] == [0, 1, 2, 3]

    (first, second, third), _ = await store.claim(10)
    assert (await where("d1")).claimed
    parked = await where("d4")
    assert (parked.holder, parked.ahead) == ("import-d1", None)

    await run(store, first, 60)
    await recording.retry(store, second, delay_seconds=30)
    await recording.doubt(
        store, third, Doubt.UNKNOWN, error="reset", delay_seconds=10, in_outage=False
    )
    assert [(await where(app)).claimed for app in ("d1", "d2", "d3")] == [False] * 3
    assert 50 < (await where("d1")).due_seconds <= 60
    assert 20 < (await where("d2")).due_seconds <= 30
    assert 5 < (await where("d3")).due_seconds <= 10


async def test_events_are_read_forwards_backwards_and_as_they_arrive(
    store: ImportStore, views: ImportViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.store.views.READ_AT_ONCE", 2)
    for number in range(5):
        await admit(store, f"d{number}")
    forwards = await views.events("0", count=10)
    assert [event["data"]["importId"] for _, event in forwards] == [
        f"import-d{number}" for number in range(5)
    ]
    assert await views.events(forwards[2][0], count=10) == forwards[3:]
    newest = await views.newest_event_id()
    assert newest == forwards[-1][0]
    backwards = [event async for event in views.events_backwards(newest)]
    assert backwards == [event for _, event in reversed(forwards)]

    waiting = asyncio.create_task(views.events(newest, block_ms=10_000))
    await admit(store, "d9")
    ((_, event),) = await waiting
    assert event["subject"] == "d9/staging"
    assert json.dumps(event)


async def test_the_server_reports_what_the_doctor_needs(views: ImportViews) -> None:
    facts = await views.server()
    assert facts.name == "Valkey"
    assert facts.version[0].isdigit()
    assert facts.role == "master"
    assert (facts.cluster, facts.replicas, facts.maxmemory_bytes) == (False, 0, 0)
    assert facts.maxmemory_policy == "noeviction"
