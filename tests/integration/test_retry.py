"""Retried imports: once each, under the rules of their target, and with their history."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

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
from worker.domain.imports import Import
from worker.domain.outcomes import Envelope, Retried, RetryVerdict
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.batchview import BatchCounts
from worker.store.store import ImportStore
from worker.store.views import ImportViews

on_both = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)
BADLY = (State.FAILED, State.REJECTED, State.TIMED_OUT)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


async def admit(store: ImportStore, import_id: str, **more: Any) -> None:
    request = OPERATIONS.parse(
        members(more.pop("app", f"d{import_id[:8]}".replace(":", "")), **more)
    )
    await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")


async def end_next(store: ImportStore, state: State = State.FAILED) -> str:
    (claim,), _ = await store.claim(1)
    claim = replace(claim, answered=True)
    await recording.finish(
        store, claim, state, error="no pool", job_id="j", operation="", status=""
    )
    return claim.item.id


async def end_all(store: ImportStore, state: State) -> None:
    """End everything that waits, as fast as the lane's limit allows."""
    wait_seconds: float | None = 0.0
    while wait_seconds is not None and wait_seconds < 1:
        await asyncio.sleep(wait_seconds)
        claims, wait_seconds = await store.claim(100)
        await asyncio.gather(
            *(
                recording.finish(store, claim, state, error="", job_id="", operation="", status="")
                for claim in claims
            )
        )


async def ended(
    store: ImportStore, import_id: str, state: State = State.FAILED, **more: Any
) -> Import:
    await admit(store, import_id, **more)
    if state is State.CANCELLED:
        await store.cancel(import_id, "not now")
    else:
        assert await end_next(store, state) == import_id
    return await loaded(store, import_id)


async def loaded(store: ImportStore, import_id: str) -> Import:
    item = await store.load(import_id)
    assert item is not None, import_id
    return item


async def retry(store: ImportStore, import_id: str) -> Retried:
    return await store.retry(await loaded(store, import_id))


async def counts_of(redis: Any, batch_id: str) -> BatchCounts:
    counts = await ImportViews(redis).batch(batch_id)
    assert counts is not None
    return counts


async def events_of(redis: Any, type_: str) -> list[dict[str, Any]]:
    events = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    return [event for event in events if event["type"] == type_]


@on_both
@pytest.mark.parametrize("state", [*BADLY, State.CANCELLED])
async def test_an_unsuccessful_import_that_is_retried_is_a_new_import_of_the_same_request(
    store: ImportStore, redis: Any, state: State
) -> None:
    more = {"batchId": "b", "priority": "high", "metadata": {"ticket": "7"}, "idempotencyKey": "k"}
    old = await ended(store, "i1", state, **more)
    assert await store.retry(old) == Retried(RetryVerdict.RETRIED, "i1:retry-1")
    new = await loaded(store, "i1:retry-1")
    assert (new.state, new.retry_of, new.batch_id) == (State.WAITING, "i1", "b:retry-1")
    assert (new.members, new.lane, new.priority) == (old.members, old.lane, "high")
    assert (new.attempts, new.error, new.job_id, new.finished_at_ms) == (0, "", "", 0)
    assert await loaded(store, "i1") == replace(old, retried_by="i1:retry-1")
    (_, accepted) = await events_of(redis, "import.accepted")
    assert accepted["data"]["importId"] == "i1:retry-1"
    assert accepted["data"]["batchId"] == "b:retry-1"
    assert accepted["data"]["metadata"] == {"ticket": "7"}
    counts = await counts_of(redis, "b")
    assert (counts.accepted, counts.by_state[state]) == (1, 1), "the old batch stays as it was"
    assert await redis.get(
        f"imports:idempotency:{(await redis.keys('*idempotency*'))[0][20:]}"
    ) == ("i1"), "the key stands for the first import"


@on_both
async def test_the_retry_of_a_retry_has_the_next_number_and_its_task_must_finish(
    store: ImportStore, redis: Any
) -> None:
    await ended(store, "i1", batchId="b")
    for number in (1, 2, 3):
        before = "i1" if number == 1 else f"i1:retry-{number - 1}"
        assert (await retry(store, before)).retry_id == f"i1:retry-{number}"
        assert await end_next(store) == f"i1:retry-{number}"
        counts = await counts_of(redis, f"b:retry-{number}")
        assert counts.completed
    owed = [(e.item.id, dict(e.tasks)) for e in await store.overdue(10, 60)]
    assert owed == []
    assert await redis.hgetall("imports:tasks:i1:retry-3") == {"i1:retry-3": ""}
    for import_id in ("i1", *(f"i1:retry-{n}" for n in (1, 2, 3))):
        await store.note_task_done(import_id, import_id)


async def test_an_id_that_only_looks_like_that_of_a_retry_is_an_ordinary_id(
    store: ImportStore,
) -> None:
    await ended(store, "i1:retry-5", app="d1", batchId="b:retry-5")
    assert (await retry(store, "i1:retry-5")).retry_id == "i1:retry-5:retry-1"
    assert (await loaded(store, "i1:retry-5:retry-1")).batch_id == "b:retry-5:retry-1"


@on_both
async def test_many_simultaneous_retries_create_one_import(store: ImportStore, redis: Any) -> None:
    old = await ended(store, "i1", batchId="b")
    verdicts = [r.verdict for r in await asyncio.gather(*(store.retry(old) for _ in range(50)))]
    assert verdicts.count(RetryVerdict.RETRIED) == 1
    assert verdicts.count(RetryVerdict.ALREADY) == 49
    assert (await counts_of(redis, "b:retry-1")).accepted == 1
    assert await redis.zcard("imports:waiting:default/us-east-1:normal") == 1


async def test_an_import_that_may_not_be_retried_stays_as_it_is(
    store: ImportStore, redis: Any
) -> None:
    await ended(store, "good", State.SUCCEEDED)
    late = await ended(store, "late", State.TIMED_OUT)
    await redis.hset("imports:import:late", "late_outcome", "succeeded")
    await ended(store, "x" * 121)
    await ended(store, "fits" + "x" * 116, app="dfits")
    await ended(store, "l1", batchId="b" * 120 + "c")
    await ended(store, "mine")
    await admit(store, "mine:retry-1", app="dother")
    await end_next(store)
    await store.reject(
        Envelope(import_id="bad", task_id="bad"), ("-", "-"), ("default", "-"), "appId: is required"
    )
    await admit(store, "key1", app="dkey1", idempotencyKey="k")
    await admit(store, "key2", app="dkey2", idempotencyKey="k")
    before = await redis.zcard("imports:waiting:default/us-east-1:normal")
    for import_id, verdict in {
        "good": RetryVerdict.SUCCEEDED,
        "late": RetryVerdict.LATE,
        "x" * 121: RetryVerdict.TOO_LONG,
        "l1": RetryVerdict.TOO_LONG,
        "mine": RetryVerdict.TAKEN,
        "bad": RetryVerdict.INVALID,
        "key1": RetryVerdict.UNDER_WAY,
        "key2": RetryVerdict.INVALID,
    }.items():
        assert await retry(store, import_id) == Retried(verdict), import_id
        assert (await loaded(store, import_id)).retried_by == ""
    assert await store.retry(replace(late, id="nobody")) == Retried(RetryVerdict.UNKNOWN)
    assert await redis.zcard("imports:waiting:default/us-east-1:normal") == before
    assert (await retry(store, "fits" + "x" * 116)).verdict is RetryVerdict.RETRIED


async def test_an_incomplete_batch_is_closed_once(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("b", 5)
    for n in (1, 2):
        await ended(store, f"i{n}", batchId="b")
    assert not (await counts_of(redis, "b")).completed
    await store.close_batch("b")
    await store.close_batch("b")
    assert (await counts_of(redis, "b")).completed
    (completed,) = await events_of(redis, "batch.completed")
    assert (completed["data"]["total"], completed["data"]["failed"]) == (2, 2)
    await store.announce_batch("nothing", 5)
    await store.close_batch("nothing")
    assert await ImportViews(redis).batch("nothing") is None


async def batch_of_all_states(store: ImportStore) -> None:
    for n, state in enumerate((*BADLY, State.FAILED, State.CANCELLED, State.SUCCEEDED)):
        await ended(store, f"i{n}", state, batchId="b")
    await store.reject(
        Envelope(import_id="bad", task_id="bad", batch_id="b"),
        ("-", "-"),
        ("default", "-"),
        "appId: is required",
    )
    await admit(store, "i9", batchId="b")


async def test_the_command_retries_a_batch_and_a_second_time_creates_nothing_new(
    command: CommandLine, store: ImportStore, redis: Any
) -> None:
    await batch_of_all_states(store)
    asked = command("retry", "b")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert (
        "Retry 2 failed and 1 timed_out and 2 rejected imports of batch b? Say --yes"
        in asked.stderr
    )
    assert await ImportViews(redis).batch("b:retry-1") is None

    done = command("retry", "b", "--yes")
    assert (done.returncode, done.stderr) == (1, ""), "one of them can't be retried"
    assert done.stdout == (
        "Batch b: 4 imports are tried again as batch b:retry-1.\n"
        "Import bad was rejected at admission, so there is no valid request to retry.\n"
        "Follow it: amplify-import watch b:retry-1\n"
    )
    counts = await counts_of(redis, "b:retry-1")
    assert (counts.accepted, counts.expected, counts.by_state[State.WAITING]) == (4, 4, 4)

    again = command("retry", "b", "--yes")
    assert again.stdout.startswith(
        "Batch b: 0 imports are tried again as batch b:retry-1; 4 had already been retried.\n"
    )
    assert (await counts_of(redis, "b:retry-1")).total == 4

    cancelled = command("retry", "b", "--cancelled", "--yes")
    assert cancelled.returncode == 0
    assert cancelled.stdout.startswith("Batch b: 1 import is tried again as batch b:retry-1.\n")
    assert (await loaded(store, "i4:retry-1")).state is State.WAITING
    assert await store.load("i5:retry-1") is None, "it succeeded"
    assert await store.load("i9:retry-1") is None, "it has not ended"


async def test_flags_select_imports_and_unknown_ids_exit_with_4(
    command: CommandLine, store: ImportStore, redis: Any
) -> None:
    await batch_of_all_states(store)
    timed_out = command("retry", "b", "--timed-out", "--yes")
    assert timed_out.stdout.startswith("Batch b: 1 import is tried again as batch b:retry-1.\n")
    members_of = await redis.zrange("imports:members:b:retry-1", 0, -1)
    assert members_of == ["i2:retry-1"]
    none, missing, flag = command.each(
        ("retry", "b:retry-1", "--yes"), ("retry", "nothing"), ("retry", "i0", "--failed")
    )
    assert none.returncode == 0
    assert none.stdout == ("Batch b:retry-1: no import to retry (failed, timed_out, rejected).\n")
    assert missing.returncode == 4
    assert "There is no import or batch nothing" in missing.stderr
    assert flag.returncode == 2
    assert "the options that choose outcomes work only for a batch" in flag.stderr


async def test_the_command_reports_on_a_single_import(
    command: CommandLine, store: ImportStore
) -> None:
    await ended(store, "alone", State.CANCELLED)
    await ended(store, "good", State.SUCCEEDED)
    await ended(store, "x" * 125)
    done = command("retry", "alone")
    assert done.returncode == 0
    assert done.stdout == (
        "Import alone is retried as alone:retry-1.\n"
        "Follow it: amplify-import status alone:retry-1\n"
    )
    again, good, long = command.each(("retry", "alone"), ("retry", "good"), ("retry", "x" * 125))
    assert (again.returncode, again.stdout) == (
        0,
        "Import alone has already been retried as alone:retry-1.\n",
    )
    assert (good.returncode, good.stdout) == (0, "Import good succeeded.\n")
    assert long.returncode == 1
    assert "would be too long" in long.stdout


async def test_a_killed_retry_is_continued_and_the_batch_completes_once(
    command: CommandLine, store: ImportStore, redis: Any
) -> None:
    total = 1500
    for start in range(0, total, 100):
        await asyncio.gather(
            *(admit(store, f"i{n}", batchId="b") for n in range(start, start + 100))
        )
    await end_all(store, State.FAILED)
    with command.running("retry", "b", "--yes") as killed:
        while await redis.zcard("imports:members:b:retry-1") < 100:
            assert killed.poll() is None, "the command ended before it could be killed"
        killed.kill()
        killed.wait(90)
    came = await redis.zcard("imports:members:b:retry-1")
    assert 0 < came < total
    assert (await counts_of(redis, "b:retry-1")).total >= total, "it waits for the others"
    done = command("retry", "b", "--yes")
    assert done.stdout.startswith(
        f"Batch b: {total - came:,} imports are tried again as batch b:retry-1; "
        f"{came:,} had already been retried.\n"
    )
    counts = await counts_of(redis, "b:retry-1")
    assert (counts.accepted, counts.total) == (total, total)
    await end_all(store, State.SUCCEEDED)
    completed = await events_of(redis, "batch.completed")
    assert [e["data"]["succeeded"] for e in completed if e["subject"] == "b:retry-1"] == [total]


def test_a_retry_waits_behind_the_job_that_its_predecessor_left_behind(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, command: CommandLine
) -> None:
    sandbox.script("dslow", duration_seconds=6, outcome="succeed")
    start_worker()
    task = producer.send(members("dslow", deadlineSeconds=1, batchId="b"))
    timed_out = producer.wait_for_event("import.timed_out", importId=task.id)
    sandbox.script("dslow", duration_seconds=0.1, outcome="succeed")
    done = command("retry", "b", "--yes")
    assert done.stdout.startswith("Batch b: 1 import is tried again as batch b:retry-1.\n")
    retry_id = f"{task.id}:retry-1"

    def waits_behind() -> bool:
        return int(producer.redis.hget(f"imports:import:{retry_id}", "conflicts") or 0) > 0

    wait_until(waits_behind, "AWS answers that the old job is pending")
    succeeded = producer.wait_for_event("import.succeeded", importId=retry_id)
    assert succeeded["data"]["jobId"] not in {None, timed_out["data"]["jobId"]}
    assert succeeded["data"]["attempts"] == 1, "conflicts are not counted"
    producer.wait_for_event("batch.completed", batchId="b:retry-1")
    assert producer.app.AsyncResult(retry_id).get(timeout=60)["outcome"] == "succeeded"
    assert command("watch", "b:retry-1").returncode == 0
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "no task is unfinished")
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "the lane has nothing to do")
    assert_nothing_left_behind(producer.redis)
