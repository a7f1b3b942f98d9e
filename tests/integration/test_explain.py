"""What `explain` tells of an import, and whether its estimate comes true."""

import json
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

import pytest

from tests.conftest import GENEROUS, MakeStore, StartWorker
from tests.support import CommandLine, Producer, members, wait_until
from worker.cli.estimate import estimate_start, starts_before
from worker.domain.claims import Claim
from worker.domain.history import What
from worker.domain.outcomes import Entrance, LaneLimits
from worker.domain.requests import ImportRequest, Priority
from worker.domain.states import State
from worker.store.batches import BatchControl
from worker.store.lanes import LaneControl
from worker.store.store import ImportStore, StoreConfig
from worker.store.views import ImportViews

LANE = "default/us-east-1"
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


@pytest.fixture
def views(redis: Any) -> ImportViews:
    return ImportViews(redis)


async def admit(store: ImportStore, import_id: str, app: str = "", **more: Any) -> None:
    request = ImportRequest.parse(members(app or f"d{import_id}", **more))
    await store.admit(Entrance(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(1))[0]
    return replace(claim, answered=True)


async def run(store: ImportStore, claim: Claim) -> None:
    assert await store.run(claim, job_id="j1", operation="", status="", delay_seconds=60)


async def told(views: ImportViews, import_id: str) -> tuple[float | None, str] | None:
    item = await views.find(import_id)
    assert item is not None
    estimate = estimate_start(item, await views.whereabouts(item))
    return (estimate.seconds, estimate.why) if estimate else None


@pytest.mark.parametrize("seed", range(5))
async def test_the_place_of_an_import_is_that_at_which_it_starts(
    store: ImportStore, views: ImportViews, seed: int
) -> None:
    """Three priorities and their batches, some of them begun: the scripts say who is next."""
    dice = Random(seed)

    async def some(first: int, last: int) -> None:
        for n in range(first, last):
            batch = {"batchId": f"b{dice.randrange(4)}"} if dice.random() < 0.7 else {}
            await admit(store, f"i{n}", priority=dice.choice(list(Priority)), **batch)

    await some(0, 60)
    begun = {(await claim_one(store)).item.id for _ in range(dice.randrange(1, 50))}
    await some(60, 120)
    left = [f"i{n}" for n in range(120) if f"i{n}" not in begun]
    places = {}
    for import_id in left:
        item = await views.find(import_id)
        assert item is not None
        where = await views.whereabouts(item)
        assert where.ahead is not None
        places[import_id] = starts_before(where.lane, Priority(item.priority), where.ahead)
    order = [(await claim_one(store)).item.id for _ in left]
    # Turns that are the same to a hair may be taken either way.
    assert all(abs(places[import_id] - place) <= 2 for place, import_id in enumerate(order))
    assert sum(places[import_id] == place for place, import_id in enumerate(order)) > len(left) / 2


async def test_the_estimate_follows_the_pace_and_says_what_it_rests_on(
    make_store: MakeStore, views: ImportViews
) -> None:
    store = await make_store(LaneLimits(start_rate=2, start_burst=1, poll_rate=10, max_running=5))
    for n in range(9):
        await admit(store, f"i{n}")
    claim = await claim_one(store)
    assert await told(views, "i1") == (0.5, "0 start before it, at 2 starts a second")
    assert await told(views, "i3") == (1.5, "2 start before it, at 2 starts a second")
    assert await told(views, "i8") == (
        4.0,
        "7 start before it, at 2 starts a second; at the earliest, for at most 5 may be under way",
    )
    assert await told(views, "i0") is None, "its start is being made"
    await store.requeue(claim, delay_seconds=30)
    assert (await told(views, "i0") or (0,))[0] == pytest.approx(30, abs=2)


async def test_a_shared_budget_is_shared_with_polls(
    make_store: MakeStore, views: ImportViews
) -> None:
    shared = LaneLimits(shared=True, shared_rate=10, shared_burst=1, start_share=0.2)
    store = await make_store(shared)
    for n in range(3):
        await admit(store, f"i{n}")
    assert await told(views, "i2") == (0.3, "2 start before it, at 10 starts a second")
    await run(store, await claim_one(store))
    assert await told(views, "i2") == (1.0, "1 start before it, at 2 starts a second")


async def test_what_nobody_can_tell_is_said(
    make_store: MakeStore, redis: Any, views: ImportViews
) -> None:
    store = await make_store(replace(GENEROUS, max_running=1))
    await admit(store, "i0", "dsame")
    await run(store, await claim_one(store))
    await admit(store, "full")
    assert await told(views, "full") == (
        None,
        "0 start before it, as places come free: 1 of 1 are under way",
    )
    await store.configure(GENEROUS, {}, by="the test")
    await admit(store, "i1", "dsame")
    while (await store.claim(10))[0]:
        pass
    assert "under way for the same target" in str(await told(views, "i1"))
    await admit(store, "b1", batchId="b")
    await BatchControl(redis, CONFIG).stop("b", "wait")
    await store.claim(10)
    assert "its batch holds it back" in str(await told(views, "b1"))
    await admit(store, "p1")
    await LaneControl(redis, CONFIG).hold(LANE, "freeze")
    assert "its lane is paused" in str(await told(views, "p1"))


async def test_the_command_tells_the_history_and_what_comes_next(
    command: CommandLine, make_store: MakeStore
) -> None:
    store = await make_store(LaneLimits(start_rate=2, start_burst=1, poll_rate=10))
    await admit(store, "i1", batchId="b")
    claim = await claim_one(store)
    await store.requeue(claim, why=What.THROTTLED)
    await admit(store, "i2")
    done = command("explain", "i2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "Import i2: di2/staging, lane default/us-east-1"
    assert lines[1].endswith("s ago  accepted")
    assert lines[2].startswith("Waits for: its turn in lane default/us-east-1: 1 of its priority")
    assert lines[3] == "Starts: in about 1 s: 1 start before it, at 2 starts a second"
    first = command("explain", "i1").stdout
    assert "start 1 was made, or was about to be\n" in first
    assert "throttled by AWS; back to its place, not counted\n" in first

    told_json = json.loads(command("explain", "i2", "--json").stdout)
    assert [line["what"] for line in told_json["history"]] == ["accepted"]
    assert told_json["startsInSeconds"] == 1.0
    assert told_json["toDo"] is None

    batch, missing = command.each(("explain", "b"), ("explain", "nothing"))
    assert batch.returncode == 2
    assert "b is a batch, and explain tells of one import; see amplify-import status b" in (
        batch.stderr
    )
    assert (missing.returncode, missing.stdout) == (4, "")


async def test_the_command_says_how_an_import_ended_and_what_may_be_done(
    command: CommandLine, store: ImportStore, redis: Any
) -> None:
    for import_id in ("failed", "late", "retried"):
        await admit(store, import_id)
        await store.finish(
            await claim_one(store),
            State.FAILED,
            error="no pool",
            job_id="",
            operation="",
            status="",
        )
    await redis.hset("imports:import:late", "late_outcome", "succeeded")
    item = await store.load("retried")
    assert item is not None
    await store.retry(item)
    bad = Entrance(import_id="bad", task_id="bad")
    await store.reject(bad, ("-", "-"), ("default", "-"), "appId: is required")
    names = {
        "failed": "To do: mend the cause, then: amplify-import retry failed",
        "late": "To do: nothing; its job succeeded after the import had ended",
        "retried": "To do: nothing; it was retried as retried:retry-1",
        "bad": "To do: mend the request, and submit it under another id",
    }
    for (import_id, to_do), done in zip(
        names.items(), command.each(*(("explain", name) for name in names)), strict=True
    ):
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1] == to_do
        error = "rejected: appId: is required" if import_id == "bad" else "failed: no pool"
        assert f"Ended: {error}\n" in done.stdout
    again = command("explain", "retried:retry-1").stdout
    assert "It tries import retried again.\n" in again
    assert "accepted, to try import retried again\n" in again


def test_a_start_comes_when_it_was_foretold(
    start_worker: StartWorker, producer: Producer, command: CommandLine
) -> None:
    # What a slow machine misses, the burst makes up for.
    start_worker(IMPORTS_START_RATE="10", IMPORTS_START_BURST="20")
    requests = [{**members(f"d{n}"), "importId": f"i{n}"} for n in range(160)]
    producer.send_batch("b", requests)
    wait_until(lambda: len(producer.events("import.started")) >= 40, "the burst is spent")
    earliest = _store_seconds(producer)
    told = json.loads(command("explain", "i150", "--json").stdout)
    latest = _store_seconds(producer)
    assert told["state"] == "waiting"
    started = producer.wait_for_event("import.started", importId="i150")
    happened = datetime.fromisoformat(started["data"]["startedAt"]).timestamp()
    seconds = told["startsInSeconds"]
    assert earliest + 0.75 * seconds - 1 <= happened <= latest + 1.25 * seconds + 1


def _store_seconds(producer: Producer) -> float:
    seconds, microseconds = producer.redis.time()
    return float(seconds + microseconds / 1e6)
