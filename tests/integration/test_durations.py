"""A lane keeps how long its jobs take: in the step that ends an import, and only what was seen."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support import CommandLine, members, recording, storage_members
from tests.support.stores import MakeStore
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.facts import LaneFacts
from worker.domain.outcomes import Envelope
from worker.domain.polling import BINS, EDGES, Durations
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import LaneControl
from worker.store.keys import FACTS, IMPORT, NAMES
from worker.store.records import SHORT
from worker.store.store import ImportStore

LANE = "default/us-east-1"
AUTH, STORAGE = "ImportBackendAuth", "ImportBackendStorage"
RUNNING, DONE = "IN_PROGRESS", "COMPLETED"


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store(operations=(AUTH, STORAGE))


async def start(store: ImportStore, operation: str = AUTH) -> None:
    request = OPERATIONS.parse(
        storage_members("d1") if operation == STORAGE else members("d1"), operation
    )
    await store.admit(Envelope(import_id="i1", task_id="i1"), request, "us-east-1")
    assert await recording.run(store, await claim_one(store), job_id="j1", status="CREATING")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(10))[0]
    return replace(claim, answered=True)


async def known(redis: Any) -> LaneFacts:
    return LaneFacts.from_fields(await redis.hgetall(FACTS.name + LANE))


async def move_start(redis: Any, seconds: float) -> None:
    """Let the import's job have started earlier, and its last poll with it."""
    for field in (SHORT["started_at_ms"], SHORT["unfinished_at_ms"]):
        if at_ms := await redis.hget(IMPORT.name + "i1", field):
            await redis.hset(IMPORT.name + "i1", field, float(at_ms) - seconds * 1000)


def within(durations: Durations, begin: float, end: float) -> float:
    """Return the weight of the bins that overlap a range."""
    return sum(weight for a, b, weight in durations.bins() if a < end and b > begin)


@pytest.mark.parametrize("operation", [AUTH, STORAGE])
async def test_the_end_of_an_import_records_between_which_polls_its_job_ended(
    store: ImportStore, redis: Any, operation: str
) -> None:
    await start(store, operation)
    await recording.poll_again(store, await claim_one(store), status=RUNNING)
    await move_start(redis, 100)  # the poll was at the age of 0
    await redis.hincrbyfloat(IMPORT.name + "i1", SHORT["unfinished_at_ms"], 90_000)
    await recording.finish(store, await claim_one(store), State.SUCCEEDED, status=DONE)
    facts = await known(redis)
    assert set(facts.durations) == {operation}
    durations = facts.durations_of(operation)
    assert durations.total == pytest.approx(1, abs=0.01)
    assert within(durations, 90, 130) == pytest.approx(1, abs=0.01)
    assert not await redis.hexists(IMPORT.name + "i1", SHORT["unfinished_at_ms"])


async def test_the_next_claim_brings_the_durations(store: ImportStore, redis: Any) -> None:
    await redis.hset(FACTS.name + LANE, "durations", "1 " * BINS)
    await start(store)
    claim = await claim_one(store)
    assert claim.call is Call.POLL
    assert claim.facts.durations_of(AUTH) == Durations((1.0,) * BINS)
    assert claim.facts.durations_of(STORAGE) == Durations()


@pytest.mark.parametrize("text", ["", "garbage", "nan " * BINS, "1 2 3", "1e999 " * BINS])
async def test_damaged_durations_are_ignored_and_replaced(
    store: ImportStore, redis: Any, text: str
) -> None:
    await redis.hset(FACTS.name + LANE, "durations", text)
    await start(store)
    claim = await claim_one(store)
    assert claim.facts.durations_of(AUTH) == Durations()
    await recording.finish(store, claim, State.FAILED, status="FAILED")
    assert (await known(redis)).durations_of(AUTH).total == pytest.approx(1, abs=0.01)


async def test_an_answer_after_its_lease_records_no_duration(
    store: ImportStore, redis: Any
) -> None:
    await start(store)
    claim = replace(await claim_one(store), lease="another")
    assert await recording.finish(store, claim, State.SUCCEEDED, status=DONE) is None
    assert not (await known(redis)).durations


@pytest.mark.parametrize("state", [State.TIMED_OUT, State.FAILED])
async def test_an_end_that_was_not_seen_records_no_duration(
    store: ImportStore, redis: Any, state: State
) -> None:
    await start(store)
    await recording.finish(store, await claim_one(store), state, error="not seen")
    assert not (await known(redis)).durations


async def test_an_adopted_job_records_no_duration(store: ImportStore, redis: Any) -> None:
    request = OPERATIONS.parse(members("d1"))
    await store.admit(Envelope(import_id="i1", task_id="i1"), request, "us-east-1")
    await recording.doubt(store, await claim_one(store), Doubt.UNKNOWN, error="reset")
    assert await recording.run(store, await claim_one(store), job_id="j1", status=RUNNING)
    await recording.finish(store, await claim_one(store), State.SUCCEEDED, status=DONE)
    assert not (await known(redis)).durations


async def test_an_end_that_was_seen_before_records_no_duration(
    store: ImportStore, redis: Any
) -> None:
    """A first job may be polled once more after its end, to learn what lists show."""
    await start(store)
    await recording.poll_again(store, await claim_one(store), status=DONE)
    await recording.finish(store, await claim_one(store), State.SUCCEEDED, status=DONE)
    assert not (await known(redis)).durations


async def test_a_store_clock_that_was_set_back_is_harmless(store: ImportStore, redis: Any) -> None:
    await start(store)
    await move_start(redis, -3600)
    await recording.finish(store, await claim_one(store), State.SUCCEEDED, status=DONE)
    assert (await known(redis)).durations_of(AUTH).total == pytest.approx(1, abs=0.01)


async def test_lanes_shows_when_most_jobs_end(redis: Any, command: CommandLine) -> None:
    await redis.sadd(NAMES.name, LANE)
    weights = Durations(tuple(20.0 * (53 < begin < 64) for begin in EDGES)).weights
    await redis.hset(FACTS.name + LANE, "durations", " ".join(map(str, weights)))
    text, as_json = command.each(("lanes", "--facts"), ("lanes", "--facts", "--json"))
    assert "most jobs      end after 55 s to 63 s (ImportBackendAuth)" in text.stdout
    found = json.loads(as_json.stdout)["facts"]["jobSeconds"]
    assert set(found) == {AUTH}
    assert found[AUTH]["p10"] < found[AUTH]["p50"] < found[AUTH]["p90"]


async def test_resetting_a_lane_forgets_its_durations(redis: Any) -> None:
    await redis.hset(FACTS.name + LANE, "durations", "1 " * BINS)
    config = StoreConfig(
        retention_seconds=60, events_max_length=10, lease_seconds=30, settle_seconds=0
    )
    await LaneControl(redis, config).reset(LANE)
    assert not (await known(redis)).durations
