"""When imports may start, by their tasks' `countdown` and `expires`, and what is reported."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    assert_nothing_left_behind,
    members,
    recording,
    wait_until,
)
from tests.support.stores import MakeStore
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.outcomes import Envelope, StopRule
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import LaneControl
from worker.store.store import ImportStore

LANE = "default/us-east-1"
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)
on_both = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)
by_both = pytest.mark.parametrize("broker_url", ["store", "rabbitmq"], indirect=True)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


def in_ms(seconds: float) -> int:
    return round((time.time() + seconds) * 1000)


async def admit(store: ImportStore, import_id: str, app: str = "", **more: Any) -> None:
    times = {name: more.pop(name) for name in ("not_before_ms", "expires_at_ms") if name in more}
    request = OPERATIONS.parse(members(app or f"d{import_id}", **more))
    envelope = Envelope(import_id=import_id, task_id=import_id, **times)
    await store.admit(envelope, request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(10))[0]
    return replace(claim, answered=True)


async def state_of(store: ImportStore, import_id: str) -> State:
    item = await store.load(import_id)
    assert item
    return item.state


Place = Callable[[ImportStore, Any, int], Awaitable[object]]


async def waits(store: ImportStore, redis: Any, at: int) -> None:
    await LaneControl(redis, CONFIG).pause(LANE, "freeze")
    await admit(store, "i1", expires_at_ms=at)


async def waits_for_its_target(store: ImportStore, _: Any, at: int) -> None:
    await admit(store, "i0", "dsame")
    await claim_one(store)
    await admit(store, "i1", "dsame", expires_at_ms=at)


async def is_held_by_its_batch(store: ImportStore, _: Any, at: int) -> None:
    await store.announce_batch("b", 2, StopRule(canary=1))
    await admit(store, "i0", batchId="b")
    await claim_one(store)
    await admit(store, "i1", batchId="b", expires_at_ms=at)


async def is_to_be_started_again(store: ImportStore, _: Any, at: int) -> None:
    await admit(store, "i1", expires_at_ms=at)
    await recording.retry(store, await claim_one(store), delay_seconds=60, error="no")


async def is_to_start_later(store: ImportStore, _: Any, at: int) -> None:
    await admit(store, "i1", expires_at_ms=at, not_before_ms=at + 60_000)


@on_both
@pytest.mark.parametrize(
    "place",
    [
        waits,
        waits_for_its_target,
        is_held_by_its_batch,
        is_to_be_started_again,
        is_to_start_later,
    ],
)
async def test_an_import_that_has_not_started_in_time_is_cancelled_wherever_it_waits(
    store: ImportStore, redis: Any, place: Place
) -> None:
    at = in_ms(20)
    await place(store, redis, at)
    assert await store.claim(10)
    assert await state_of(store, "i1") is State.WAITING
    await redis.advance(21)
    assert (await store.claim(10))[0] == []
    item = await store.load("i1")
    assert item
    assert (item.state, item.error, item.has_expired) == (State.CANCELLED, "expired", True)
    events = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    ends = [event["data"]["error"] for event in events if event["type"] == "import.cancelled"]
    assert ends == ["expired"]
    assert not await redis.exists("imports:expiring")


async def test_an_import_that_expired_before_it_arrived_never_starts(store: ImportStore) -> None:
    for n in range(120):  # more than one claim cancels
        await admit(store, f"i{n}", expires_at_ms=in_ms(-5))
    assert await store.claim(200) == ([], 0), "more are left, and must not wait"
    for _ in range(2):
        assert (await store.claim(200))[0] == []
    states = [await state_of(store, f"i{n}") for n in range(120)]
    assert set(states) == {State.CANCELLED}


async def test_an_import_that_was_started_in_time_continues(store: ImportStore, redis: Any) -> None:
    await admit(store, "i1", expires_at_ms=in_ms(20))
    claim = await claim_one(store)
    await redis.advance(21)  # the lease lasts
    await store.claim(10)
    assert await state_of(store, "i1") is State.STARTING
    assert await recording.run(store, claim, job_id="j", operation="", status="", delay_seconds=2)
    await redis.zadd("imports:expiring", {"i1": 1})
    await store.claim(10)
    assert await state_of(store, "i1") is State.RUNNING
    assert not await redis.exists("imports:expiring")


async def test_a_start_with_an_unknown_outcome_is_reconciled_before_it_expires(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "i1", expires_at_ms=in_ms(20))
    await recording.doubt(
        store,
        await claim_one(store),
        Doubt.UNKNOWN,
        error="reset",
        delay_seconds=21,
        in_outage=False,
    )
    await redis.advance(22)
    claim = await claim_one(store)
    assert claim.call is Call.RECONCILE
    await recording.retry(store, claim, error="no job of it")
    assert (await store.claim(10))[0] == []
    await redis.advance(60)
    assert (await store.claim(10))[0] == []
    assert await state_of(store, "i1") is State.CANCELLED


async def test_an_import_lasts_as_long_as_anybody_wants_it(store: ImportStore, redis: Any) -> None:
    await LaneControl(redis, CONFIG).pause(LANE, "freeze")
    for name, later in {"soon": 20, "late": 3600, "never": None}.items():
        first, second = f"{name}-1", f"{name}-2"
        key = {"idempotencyKey": name}
        await admit(store, first, f"d{name}", expires_at_ms=in_ms(30), **key)
        times = {} if later is None else {"expires_at_ms": in_ms(later)}
        await admit(store, second, f"d{name}", **times, **key)
    await redis.advance(31)
    await store.claim(10)
    states = {name: await state_of(store, f"{name}-1") for name in ("soon", "late", "never")}
    assert states == {
        "soon": State.CANCELLED,
        "late": State.WAITING,
        "never": State.WAITING,
    }
    assert await redis.zrange("imports:expiring", 0, -1) == ["late-1"]


@on_both
async def test_an_import_never_starts_before_its_time_whatever_happens_to_its_lane(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "later", not_before_ms=in_ms(60))
    _, wait_seconds = await store.claim(10)
    assert wait_seconds is not None
    assert 30 < wait_seconds <= 60, "no conductor looks before that"
    control = LaneControl(redis, CONFIG)
    await control.pause(LANE, "freeze")
    await control.resume(LANE)
    assert (await store.claim(10))[0] == []
    await recording.pause_lane(store, LANE, "no", probe=False, delay_seconds=0, delay_max_seconds=1)
    assert (await store.claim(10))[0] == [], "it does not start as a probe either"
    await recording.resume_lane(store, LANE)
    await redis.advance(61)
    assert (await claim_one(store)).item.id == "later"


def freeze(producer: Producer, command: CommandLine) -> None:
    """Pause the lane as an operator, once it is known."""
    producer.send(members("dfirst")).get(timeout=60)
    assert command("lanes", "pause", LANE, "--reason", "freeze").returncode == 0


@by_both
def test_a_task_that_expires_in_its_lane_is_revoked(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, command: CommandLine
) -> None:
    worker = start_worker()
    freeze(producer, command)
    late = producer.send(members("dlate"), expires=1)
    linked = producer.app.signature(
        "imports.import_backend_auth", kwargs=members("dlinked"), queue="imports"
    )
    producer.send(members("dchained"), expires=1, link=linked)
    wait_until(lambda: late.state == "WAITING", "it waits")
    cancelled = producer.wait_for_event("import.cancelled", importId=late.id)
    assert cancelled["data"]["error"] == "expired"
    with pytest.raises(TaskRevokedError, match="expired"):
        late.get(timeout=60)
    command("lanes", "resume", LANE)
    early = producer.send(members("dearly"), expires=3600)
    assert early.get(timeout=60)["outcome"] == "succeeded"
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "all tasks have finished")
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "no lane has work")
    assert {call["target"] for call in sandbox.calls()} == {"dfirst/staging", "dearly/staging"}
    assert_nothing_left_behind(producer.redis)
    assert "Traceback" not in worker.log


def test_a_message_that_comes_again_after_its_expiry_ends_no_import_that_runs(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dslow", duration_seconds=4)
    start_worker()
    task: Any = producer.app.send_task(
        "imports.import_backend_auth", kwargs=members("dslow"), queue="held", expires=2
    )
    text: Any = producer.redis.lpop("held")
    text = text.replace('"routing_key": "held"', '"routing_key": "imports"')
    producer.redis.lpush("imports", text)
    wait_until(lambda: task.state == "RUNNING", "it runs")
    time.sleep(2)
    producer.redis.lpush("imports", text)
    assert task.get(timeout=60)["outcome"] == "succeeded"


@by_both
def test_an_import_waits_for_its_countdown_in_the_store(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    worker = start_worker(IMPORTS_LEASE_SECONDS="2")
    began = time.time()
    later = [producer.send(members(f"d{n}"), countdown=13) for n in range(5)]
    batch = producer.app.send_task(
        "imports.import_batch",
        kwargs={"batchId": "b", "requests": [members("dbatch")]},
        queue="imports",
        countdown=13,
    )
    assert batch.get(timeout=10)["accepted"] == 1
    assert producer.send(members("dnow")).get(timeout=10)["outcome"] == "succeeded"
    wait_until(lambda: not producer.redis.exists("unacked"), "no message is held in the worker")
    assert {task.state for task in later} == {"WAITING"}
    assert {task.get(timeout=60)["outcome"] for task in later} == {"succeeded"}
    producer.wait_for_event("batch.completed", batchId="b")
    starts = [call for call in sandbox.calls() if call["target"] != "dnow/staging"]
    assert len(starts) == 6
    assert time.time() - began > 12.5
    for task in later:
        assert worker.log.count(f"imports.import_backend_auth[{task.id}] received") == 1


def test_a_task_whose_result_is_ignored_writes_no_state(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dbad", outcome="fail", duration_seconds=1)
    sandbox.script("dgood", duration_seconds=1)
    start_worker()
    written: set[Any] = set()
    asked = [
        producer.send(members("dgood"), ignore_result=True),
        producer.send(members("dbad"), ignore_result=True),
        producer.send(members("Not-An-App"), ignore_result=True),
        producer.send(members("dlate"), ignore_result=True, expires=-1),
        producer.send(members(), ignore_result=True, shadow="x" * 20_000),  # Celery can't decode it
    ]

    def all_have_ended() -> bool:
        keys: Any = producer.redis.keys("celery-task-meta-*")
        written.update(keys)
        ended = [e for e in producer.events() if e["data"].get("outcome")]
        return len(ended) == len(asked) and not producer.redis.exists("imports:unfinished")

    wait_until(all_have_ended, "all of them have ended, natively as well")
    assert not written
    assert producer.send(members("dtold")).get(timeout=60)["outcome"] == "succeeded"


def test_non_final_states_outlive_the_retention_time(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, command: CommandLine
) -> None:
    for name in ("dtask", "dstream"):
        sandbox.script(name, duration_seconds=4)
    start_worker(IMPORTS_RETENTION_SECONDS="60")
    freeze(producer, command)
    ids = [producer.send(members("dtask")).id, "by-stream"]
    producer.add({"importId": "by-stream", **members("dstream")})

    def keeps(import_id: str, state: str) -> bool:
        result = producer.app.AsyncResult(import_id)
        return result.state == state and producer.redis.ttl(f"celery-task-meta-{import_id}") == -1

    wait_until(lambda: all(keeps(import_id, "WAITING") for import_id in ids), "they wait")
    assert command("lanes", "resume", LANE).returncode == 0
    wait_until(lambda: all(keeps(import_id, "RUNNING") for import_id in ids), "they run")
    for import_id in ids:
        assert producer.app.AsyncResult(import_id).get(timeout=60)["outcome"] == "succeeded"
        seconds: Any = producer.redis.ttl(f"celery-task-meta-{import_id}")
        assert 0 < seconds <= 60
