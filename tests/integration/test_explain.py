"""What `explain` reports about an import, and whether its estimate is right."""

import json
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

import pytest

from tests.support import CommandLine, Producer, StartWorker, members, recording, wait_until
from tests.support.stores import GENEROUS, MakeStore
from worker.cli.estimate import estimate_start, starts_before
from worker.domain.claims import Claim
from worker.domain.outcomes import Envelope, LaneLimits
from worker.domain.requests import Priority
from worker.domain.states import State
from worker.domain.traces import read_trace
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import BatchControl, LaneControl
from worker.store.store import ImportStore
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
    request = OPERATIONS.parse(members(app or f"d{import_id}", **more))
    await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(1))[0]
    return replace(claim, answered=True)


async def run(store: ImportStore, claim: Claim) -> None:
    assert await recording.run(store, claim, job_id="j1", operation="", status="", delay_seconds=60)


async def estimate_of(views: ImportViews, import_id: str) -> tuple[float | None, str] | None:
    item = await views.find(import_id)
    assert item is not None
    estimate = estimate_start(item, await views.whereabouts(item))
    return (estimate.seconds, estimate.why) if estimate else None


@pytest.mark.parametrize("seed", range(5))
async def test_an_import_starts_at_the_place_that_was_reported(
    store: ImportStore, views: ImportViews, seed: int
) -> None:
    """Three priorities and their batches, partly started: the scripts decide what starts next."""
    rng = Random(seed)

    async def some(first: int, last: int) -> None:
        for n in range(first, last):
            batch = {"batchId": f"b{rng.randrange(4)}"} if rng.random() < 0.7 else {}
            await admit(store, f"i{n}", priority=rng.choice(list(Priority)), **batch)

    await some(0, 60)
    begun = {(await claim_one(store)).item.id for _ in range(rng.randrange(1, 50))}
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
    # Imports with practically equal turns may start in either order.
    assert all(abs(places[import_id] - place) <= 2 for place, import_id in enumerate(order))
    assert sum(places[import_id] == place for place, import_id in enumerate(order)) > len(left) / 2


async def test_the_estimate_follows_the_pace_and_states_its_basis(
    make_store: MakeStore, views: ImportViews
) -> None:
    store = await make_store(LaneLimits(start_rate=2, start_burst=1, poll_rate=10, max_running=5))
    for n in range(9):
        await admit(store, f"i{n}")
    claim = await claim_one(store)
    assert await estimate_of(views, "i1") == (0.5, "0 ahead of it, at 2 starts a second")
    assert await estimate_of(views, "i3") == (1.5, "2 ahead of it, at 2 starts a second")
    assert await estimate_of(views, "i8") == (
        4.0,
        "7 ahead of it, at 2 starts a second; at the earliest, for at most 5 may be under way",
    )
    assert await estimate_of(views, "i0") is None, "its start is being made"
    await recording.retry(store, claim, delay_seconds=30)
    assert (await estimate_of(views, "i0") or (0,))[0] == pytest.approx(30, abs=2)


async def test_a_shared_budget_is_shared_with_polls(
    make_store: MakeStore, views: ImportViews
) -> None:
    shared = LaneLimits(shared=True, shared_rate=10, shared_burst=1, start_share=0.2)
    store = await make_store(shared)
    for n in range(3):
        await admit(store, f"i{n}")
    assert await estimate_of(views, "i2") == (0.3, "2 ahead of it, at 10 starts a second")
    await run(store, await claim_one(store))
    assert await estimate_of(views, "i2") == (1.0, "1 ahead of it, at 2 starts a second")


async def test_an_impossible_estimate_has_a_reason(
    make_store: MakeStore, redis: Any, views: ImportViews
) -> None:
    store = await make_store(replace(GENEROUS, max_running=1))
    await admit(store, "i0", "dsame")
    await run(store, await claim_one(store))
    await admit(store, "full")
    assert await estimate_of(views, "full") == (
        None,
        "0 ahead of it, as places come free: 1 of 1 are under way",
    )
    await store.configure(GENEROUS, {}, by="the test")
    await admit(store, "i1", "dsame")
    while (await store.claim(10))[0]:
        pass
    assert "under way for the same target" in str(await estimate_of(views, "i1"))
    await admit(store, "b1", batchId="b")
    await BatchControl(redis, CONFIG).pause("b", "wait")
    await store.claim(10)
    assert "its batch is paused" in str(await estimate_of(views, "b1"))
    await admit(store, "p1")
    await LaneControl(redis, CONFIG).pause(LANE, "freeze")
    assert "its lane is paused" in str(await estimate_of(views, "p1"))


async def test_the_command_shows_the_history_and_the_next_step(
    command: CommandLine, make_store: MakeStore
) -> None:
    store = await make_store(LaneLimits(start_rate=2, start_burst=1, poll_rate=10))
    await admit(store, "i1", batchId="b")
    claim = await claim_one(store)
    await recording.throttle(store, claim)
    await admit(store, "i2")
    done = command("explain", "i2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "Import i2: ImportBackendAuth of di2/staging, lane default/us-east-1"
    assert lines[1].endswith("s ago  accepted")
    assert lines[2].startswith(
        "Waits for: its turn in lane default/us-east-1: 1 ahead of it in its priority"
    )
    assert lines[3] == "Starts: in about 1 s: 1 ahead of it, at 2 starts a second"
    first = command("explain", "i1").stdout
    assert "start 1: the call was sent, or was about to be\n" in first
    assert "throttled by AWS; back in line, the attempt does not count\n" in first

    shown = json.loads(command("explain", "i2", "--json").stdout)
    assert [line["what"] for line in shown["history"]] == ["accepted"]
    assert shown["startsInSeconds"] == 1.0
    assert shown["toDo"] is None

    batch, missing = command.each(("explain", "b"), ("explain", "nothing"))
    assert batch.returncode == 2
    assert "b is a batch; explain shows a single import. See amplify-import status b" in (
        batch.stderr
    )
    assert (missing.returncode, missing.stdout) == (4, "")


async def test_the_command_shows_how_an_import_ended_and_what_may_be_done(
    command: CommandLine, store: ImportStore, redis: Any
) -> None:
    for import_id in ("failed", "late", "retried"):
        await admit(store, import_id)
        await recording.finish(
            store,
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
    bad = Envelope(import_id="bad", task_id="bad")
    await store.reject(bad, ("-", "-"), ("default", "-"), "appId: is required")
    names = {
        "failed": "To do: fix the cause, then: amplify-import retry failed",
        "late": "To do: nothing; its job succeeded after the import had ended",
        "retried": "To do: nothing; it has been retried as retried:retry-1",
        "bad": "To do: fix the request and submit it under another id",
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


def test_a_start_happens_when_it_was_predicted(
    start_worker: StartWorker, producer: Producer, command: CommandLine
) -> None:
    # The burst makes up for what a slow machine misses, and any machine makes four starts a second.
    start_worker(IMPORTS_START_RATE="4", IMPORTS_START_BURST="20")
    requests = [{**members(f"d{n}"), "importId": f"i{n}"} for n in range(70)]
    producer.send_batch("b", requests)
    wait_until(lambda: len(producer.events("import.accepted")) == 70, "all are admitted")
    wait_until(lambda: len(producer.events("import.started")) >= 30, "the burst is spent")
    earliest = _store_seconds(producer)
    shown = json.loads(command("explain", "i65", "--json").stdout)
    latest = _store_seconds(producer)
    assert shown["state"] == "waiting"
    started = producer.wait_for_event("import.started", importId="i65")
    happened = datetime.fromisoformat(started["data"]["startedAt"]).timestamp()
    seconds = shown["startsInSeconds"]
    assert earliest + 0.75 * seconds - 1 <= happened <= latest + 1.25 * seconds + 1


def _store_seconds(producer: Producer) -> float:
    seconds, microseconds = producer.redis.time()
    return float(seconds + microseconds / 1e6)


async def test_the_command_shows_the_trace_of_an_import(
    store: ImportStore, command: CommandLine
) -> None:
    trace = read_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    request = OPERATIONS.parse(members())
    await store.admit(Envelope(import_id="i1", task_id="i1", trace=trace), request, "us-east-1")
    shown, as_json = command.each(("explain", "i1"), ("explain", "i1", "--json"))
    assert "Trace: 4bf92f3577b34da6a3ce929d0e0e4736\n" in shown.stdout
    assert json.loads(as_json.stdout)["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"
