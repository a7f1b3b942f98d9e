"""Cancelling imports: in every state, once, and without a start that remains unknown."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    members,
    recording,
    wait_until,
)
from tests.support.stores import MakeStore
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.outcomes import Cancellation, Envelope, StopRule
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import LaneControl
from worker.store.records import SHORT
from worker.store.store import ImportStore

LANE = "default/us-east-1"
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)
on_both = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


async def admit(store: ImportStore, import_id: str, app: str = "", **more: Any) -> None:
    request = OPERATIONS.parse(members(app or f"d{import_id}", **more))
    await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(10))[0]
    return replace(claim, answered=True)


async def run(store: ImportStore, claim: Claim, delay_seconds: float = 0) -> bool:
    return await recording.run(
        store, claim, job_id="j1", operation="", status="", delay_seconds=delay_seconds
    )


async def ends_of(redis: Any, import_id: str) -> list[tuple[str, str | None]]:
    """Return the types and errors of the import's terminal events."""
    events = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    return [
        (event["type"], event["data"]["error"])
        for event in events
        if event["data"].get("importId") == import_id and event["data"]["outcome"]
    ]


async def test_cancelling_the_last_waiting_import_leaves_no_turn_behind(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "i0", batchId="a")
    await admit(store, "i1", batchId="b")
    await admit(store, "i2", batchId="b")
    await store.cancel("i2", "no longer wanted")
    assert len((await store.claim(10))[0]) == 2
    await admit(store, "i3", batchId="c")
    await store.cancel("i3", "no longer wanted")
    assert await redis.keys("imports:flows:*") == []


Place = Callable[[ImportStore, Any], Awaitable[object]]


async def waits(store: ImportStore, _: Any) -> None:
    await admit(store, "i1", "dsame")


async def waits_for_its_target(store: ImportStore, _: Any) -> None:
    await admit(store, "i0", "dsame")
    await claim_one(store)
    await admit(store, "i1", "dsame")
    assert (await store.claim(10))[0] == []


async def is_held_by_its_batch(store: ImportStore, _: Any) -> None:
    await store.announce_batch("b", 2, StopRule(canary=1))
    await admit(store, "i0", batchId="b")
    await admit(store, "i1", "dsame", batchId="b")


async def is_to_be_started_again(store: ImportStore, _: Any) -> None:
    await admit(store, "i1", "dsame")
    await recording.retry(store, await claim_one(store), delay_seconds=60, error="no")


async def waits_in_a_lane_that_is_paused(store: ImportStore, redis: Any) -> None:
    await admit(store, "i1", "dsame")
    await LaneControl(redis, CONFIG).pause(LANE, "freeze")


async def runs(store: ImportStore, _: Any) -> None:
    await admit(store, "i1", "dsame")
    assert await run(store, await claim_one(store))


async def is_being_polled(store: ImportStore, redis: Any) -> None:
    await runs(store, redis)
    assert (await claim_one(store)).call is Call.POLL


@on_both
@pytest.mark.parametrize(
    "place",
    [
        waits,
        waits_for_its_target,
        is_held_by_its_batch,
        is_to_be_started_again,
        waits_in_a_lane_that_is_paused,
        runs,
        is_being_polled,
    ],
)
async def test_an_import_is_cancelled_at_once_and_once(
    store: ImportStore, redis: Any, place: Place
) -> None:
    await place(store, redis)
    assert await store.cancel("i1", "wrong pool") is Cancellation.CANCELLED
    assert await store.cancel("i1", "again") is Cancellation.OVER
    assert await ends_of(redis, "i1") == [("import.cancelled", "wrong pool")]
    queues = [
        key
        for key in await redis.keys("imports:*")
        if await redis.type(key) == "zset" and await redis.zscore(key, "i1") is not None
    ]
    job_id = await redis.hget("imports:import:i1", SHORT["job_id"])
    followed = [f"imports:late:{LANE}"] if job_id else []
    assert sorted(set(queues) - {"imports:members:b"}) == [*followed, "imports:unfinished"]
    (ended,) = await store.overdue(10, delay_seconds=60)
    assert (ended.item.id, list(ended.tasks)) == ("i1", ["i1"]), "its task is finished at once"
    assert ended.is_new, "no worker knows of its end yet"


@on_both
async def test_the_target_is_free_and_a_late_answer_changes_nothing(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "i1", "dsame")
    await run(store, await claim_one(store))
    poll = await claim_one(store)
    await admit(store, "i2", "dsame")
    await store.cancel("i1", "wrong pool")
    assert await recording.poll_again(store, poll) is False
    listing = await claim_one(store)
    assert (listing.item.id, listing.call, listing.item.doubt) == ("i2", Call.RECONCILE, "before")
    await recording.not_started(store, listing, listed_jobs=["j1"])
    start = await claim_one(store)
    assert (start.item.id, start.call, set(start.earlier_jobs)) == ("i2", Call.START, {"j1"})
    assert start.item.listed_jobs == frozenset({"j1"})
    assert len(await ends_of(redis, "i1")) == 1


async def is_requeued(store: ImportStore, claim: Claim) -> None:
    assert await recording.requeue(store, claim)


async def is_started(store: ImportStore, claim: Claim) -> None:
    assert await run(store, claim)


async def has_unknown_outcome_and_no_job(store: ImportStore, claim: Claim) -> None:
    assert await recording.doubt(
        store, claim, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=0, in_outage=False
    )
    assert await store.cancel("i1", "wrong pool") is Cancellation.ASKED, (
        "the import is reconciled first"
    )
    inquiry = await claim_one(store)
    assert inquiry.call is Call.RECONCILE
    assert await recording.retry(store, inquiry, error="HTTP 504")


@on_both
@pytest.mark.parametrize("answer", [is_requeued, is_started, has_unknown_outcome_and_no_job])
async def test_an_import_with_a_call_in_progress_is_cancelled_when_the_call_is_answered(
    store: ImportStore,
    redis: Any,
    answer: Callable[[ImportStore, Claim], Awaitable[None]],
) -> None:
    await admit(store, "i1")
    claim = await claim_one(store)
    assert await store.cancel("i1", "wrong pool") is Cancellation.ASKED
    assert await ends_of(redis, "i1") == []
    await answer(store, claim)
    assert await ends_of(redis, "i1") == [("import.cancelled", "wrong pool")]
    assert (await store.claim(10))[0] == []


async def test_a_cancelled_canary_counts_and_a_cancelled_import_that_was_held_back_does_not(
    store: ImportStore,
) -> None:
    await store.announce_batch("b", 4, StopRule(canary=2))
    for n in range(4):
        await admit(store, f"b{n}", batchId="b")
    await store.cancel("b3", "not now")
    canary, other = (await store.claim(10))[0]
    await recording.finish(
        store, canary, State.SUCCEEDED, error="", job_id="", operation="", status=""
    )
    assert (await store.claim(10))[0] == [], "the other canary has not ended yet"
    await run(store, other)
    await store.cancel(other.item.id, "not now")
    assert (await claim_one(store)).item.id == "b2"


async def test_an_import_that_ends_with_that_answer_keeps_its_outcome(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "i1")
    claim = await claim_one(store)
    await store.cancel("i1", "wrong pool")
    await recording.finish(
        store, claim, State.SUCCEEDED, error="", job_id="j", operation="", status=""
    )
    assert await ends_of(redis, "i1") == [("import.succeeded", None)]


async def test_commands_cancel_an_import_and_a_batch(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, "alone")
    done = command("cancel", "alone", "--reason", "wrong pool")
    assert (done.returncode, done.stdout) == (0, "Import alone is cancelled.\n")
    assert command("cancel", "alone").stdout == "Import alone had already ended.\n"
    await store.announce_batch("b", 8)
    for n in range(6):
        await admit(store, f"b{n}", batchId="b")
    claims, _ = await store.claim(2)
    await run(store, claims[0])
    asked = command("cancel", "b")
    assert asked.returncode == 2
    assert "Cancel 6 imports of batch b, 1 of which have a job" in asked.stderr
    assert "--yes" in asked.stderr
    done = command("cancel", "b", "--yes")
    assert done.returncode == 0
    assert done.stdout == (
        "Batch b: 5 imports are cancelled, and 1 more when their calls are answered.\n"
        "2 more were announced and have not arrived; to hold them back: "
        "amplify-import batches pause b\n"
    )
    missing = command("cancel", "nothing")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "There is no import or batch nothing" in missing.stderr


def test_a_cancelled_imports_task_fails_with_the_reason(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, command: CommandLine
) -> None:
    sandbox.script("dslow", duration_seconds=60)
    start_worker()
    task = producer.send(members("dslow"))
    wait_until(lambda: producer.events("import.started", import_id=task.id), "it runs")
    assert command("cancel", task.id, "--reason", "wrong pool").returncode == 0
    with pytest.raises(Exception, match=r"dslow/staging .*cancelled: wrong pool") as raised:
        task.get(timeout=60)
    assert type(raised.value).__name__ == "ImportCancelled"
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "no task is unfinished")


def test_a_revoked_import_is_cancelled_and_its_task_ends_as_revoked(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dslow", duration_seconds=60)
    start_worker()
    task = producer.send(members("dslow"))
    wait_until(lambda: producer.events("import.started", import_id=task.id), "it runs")
    task.revoke()
    cancelled = producer.wait_for_event("import.cancelled", importId=task.id)
    assert cancelled["data"]["error"] == "revoked"
    wait_until(lambda: task.state == "REVOKED", "the task is revoked")
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "no task is unfinished")
