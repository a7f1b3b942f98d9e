"""Imports that are cancelled: wherever they stand, once, and with no start that nobody knows of."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import MakeStore, StartWorker
from tests.support import CommandLine, Producer, Sandbox, members, wait_until
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.history import What
from worker.domain.outcomes import Cancellation, Entrance, StopRule
from worker.domain.requests import ImportRequest
from worker.domain.states import State
from worker.store.lanes import LaneControl
from worker.store.store import ImportStore, StoreConfig

LANE = "default/us-east-1"
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)
on_both = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


async def admit(store: ImportStore, import_id: str, app: str = "", **more: Any) -> None:
    request = ImportRequest.parse(members(app or f"d{import_id}", **more))
    await store.admit(Entrance(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(10))[0]
    return replace(claim, answered=True)


async def run(store: ImportStore, claim: Claim, delay_seconds: float = 0) -> bool:
    return await store.run(claim, job_id="j1", operation="", status="", delay_seconds=delay_seconds)


async def ends_of(redis: Any, import_id: str) -> list[tuple[str, str | None]]:
    """Return the import's terminal events, and their errors."""
    events = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    return [
        (event["type"], event["data"]["error"])
        for event in events
        if event["data"].get("importId") == import_id and event["data"]["outcome"]
    ]


async def test_the_last_one_that_waits_leaves_no_turn_behind_when_it_is_cancelled(
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
    await store.requeue(await claim_one(store), delay_seconds=60, counted=True, error="no")


async def waits_in_a_lane_that_is_paused(store: ImportStore, redis: Any) -> None:
    await admit(store, "i1", "dsame")
    await LaneControl(redis, CONFIG).hold(LANE, "freeze")


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
    job_id = await redis.hget("imports:import:i1", "job_id")
    followed = [f"imports:late:{LANE}"] if job_id else []
    assert sorted(set(queues) - {"imports:members:b"}) == [*followed, "imports:unfinished"]
    (ended,) = await store.overdue(10, delay_seconds=60)
    assert (ended.item.id, list(ended.tasks)) == ("i1", ["i1"]), "its task is finished right away"


@on_both
async def test_the_target_is_free_and_a_late_answer_changes_nothing(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "i1", "dsame")
    await run(store, await claim_one(store))
    poll = await claim_one(store)
    await admit(store, "i2", "dsame")
    await store.cancel("i1", "wrong pool")
    assert await store.reschedule(poll) is False
    listing = await claim_one(store)
    assert (listing.item.id, listing.call, listing.item.doubt) == ("i2", Call.RECONCILE, "before")
    await store.requeue(listing, why=What.NOT_STARTED, listed_jobs=["j1"])
    start = await claim_one(store)
    assert (start.item.id, start.call, set(start.earlier_jobs)) == ("i2", Call.START, {"j1"})
    assert start.item.listed_jobs == frozenset({"j1"})
    assert len(await ends_of(redis, "i1")) == 1


async def goes_back(store: ImportStore, claim: Claim) -> None:
    assert await store.requeue(claim)


async def is_started(store: ImportStore, claim: Claim) -> None:
    assert await run(store, claim)


async def is_doubted_and_not_found(store: ImportStore, claim: Claim) -> None:
    assert await store.doubt(
        claim, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=0, in_outage=False
    )
    assert await store.cancel("i1", "wrong pool") is Cancellation.ASKED, "AWS is asked first"
    inquiry = await claim_one(store)
    assert inquiry.call is Call.RECONCILE
    assert await store.requeue(inquiry, counted=True, error="HTTP 504")


@on_both
@pytest.mark.parametrize("answer", [goes_back, is_started, is_doubted_and_not_found])
async def test_an_import_whose_call_is_being_made_is_cancelled_when_that_is_answered(
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


async def test_a_canary_that_is_cancelled_counts_and_one_that_was_held_back_does_not(
    store: ImportStore,
) -> None:
    await store.announce_batch("b", 4, StopRule(canary=2))
    for n in range(4):
        await admit(store, f"b{n}", batchId="b")
    await store.cancel("b3", "not now")
    canary, other = (await store.claim(10))[0]
    await store.finish(canary, State.SUCCEEDED, error="", job_id="", operation="", status="")
    assert (await store.claim(10))[0] == [], "the other canary is still to be judged"
    await run(store, other)
    await store.cancel(other.item.id, "not now")
    assert (await claim_one(store)).item.id == "b2"


async def test_an_import_that_ends_by_that_answer_ends_as_it_did(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "i1")
    claim = await claim_one(store)
    await store.cancel("i1", "wrong pool")
    await store.finish(claim, State.SUCCEEDED, error="", job_id="j", operation="", status="")
    assert await ends_of(redis, "i1") == [("import.succeeded", None)]


async def test_commands_cancel_an_import_and_a_batch(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, "alone")
    done = command("cancel", "alone", "--reason", "wrong pool")
    assert (done.returncode, done.stdout) == (0, "Import alone is cancelled.\n")
    assert command("cancel", "alone").stdout == "Import alone was over already.\n"
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
        "Batch b: 5 imports are cancelled, and 1 will be once their calls are answered.\n"
        "2 more were announced and have not come; to hold them back when they do: "
        "amplify-import batches pause b\n"
    )
    missing = command("cancel", "nothing")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "No import and no batch nothing is known" in missing.stderr


def test_a_cancelled_import_s_task_fails_with_the_reason(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, command: CommandLine
) -> None:
    sandbox.script("dslow", duration_seconds=60)
    start_worker()
    task = producer.send(members("dslow"))
    wait_until(lambda: producer.events("import.started", import_id=task.id), "it runs")
    assert command("cancel", task.id, "--reason", "wrong pool").returncode == 0
    with pytest.raises(Exception, match=r"dslow/staging .*cancelled: wrong pool") as raised:
        task.get(timeout=20)
    assert type(raised.value).__name__ == "ImportCancelled"
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "nothing is owed to it")


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
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "nothing is owed to it")
