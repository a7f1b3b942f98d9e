"""Batches that pause and resume: because of canaries, of failures, or of an operator."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    assert_nothing_left_behind,
    members,
    recording,
)
from tests.support.stores import GENEROUS, MakeStore
from worker.domain.claims import Claim
from worker.domain.outcomes import Envelope, StopRule
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.batchview import BatchCounts
from worker.store.config import StoreConfig
from worker.store.control import BatchControl
from worker.store.store import ImportStore
from worker.store.views import ImportViews

CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store(GENEROUS)


async def admit(store: ImportStore, count: int, batch: str = "b", first: int = 0) -> None:
    for n in range(first, first + count):
        request = OPERATIONS.parse(members(f"d{batch}{n}", batchId=batch))
        await store.admit(
            Envelope(import_id=f"{batch}{n}", task_id=f"{batch}{n}"), request, "us-east-1"
        )


async def claimed(store: ImportStore) -> list[Claim]:
    return (await store.claim(50))[0]


async def end(store: ImportStore, claim: Claim, state: State = State.SUCCEEDED) -> None:
    await recording.finish(store, claim, state, error="", job_id="", operation="", status="")


async def counts_of(redis: Any, batch: str = "b") -> BatchCounts:
    counts = await ImportViews(redis).batch(batch)
    assert counts is not None
    return counts


async def batch_events(redis: Any) -> list[tuple[str, str | None]]:
    events = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    return [(e["type"], e["data"].get("reason")) for e in events if e["type"].startswith("batch.")]


async def test_canaries_start_alone_and_release_the_batch_when_they_succeed(
    store: ImportStore, redis: Any, store_url: str
) -> None:
    await store.announce_batch("b", 8, StopRule(canary=3))
    await admit(store, 8)
    canaries = await claimed(store)
    assert [claim.item.id for claim in canaries] == ["b0", "b1", "b2"]
    counts = await counts_of(redis)
    assert (counts.canary, counts.held, counts.is_paused) == (3, 5, False)
    for claim in canaries[:2]:
        await end(store, claim)
    assert await claimed(store) == []
    await end(store, canaries[2])
    rest = await claimed(store)
    assert [claim.item.id for claim in rest] == ["b3", "b4", "b5", "b6", "b7"]
    assert (await counts_of(redis)).held == 0
    for claim in rest:
        await end(store, claim)
    for n in range(8):
        await store.note_task_done(f"b{n}", f"b{n}")
    await redis.zadd("imports:lanes", {"default/us-east-1": 0})  # when the leases would end
    await store.claim(10)
    await store.wait_for_hint(0.01)
    assert await batch_events(redis) == [("batch.completed", None)]
    _nothing_left(store_url)


def _nothing_left(store_url: str) -> None:
    with Redis.from_url(store_url, decode_responses=True) as client:
        assert_nothing_left_behind(client)


async def test_a_failed_canary_pauses_the_batch_until_it_is_resumed(
    store: ImportStore, redis: Any
) -> None:
    await store.announce_batch("b", 6, StopRule(canary=2))
    await admit(store, 4)
    first, second = await claimed(store)
    await end(store, first, State.FAILED)
    await end(store, second)
    await admit(store, 2, first=4)
    assert await claimed(store) == []
    counts = await counts_of(redis)
    assert counts.is_paused
    assert counts.paused_reason == "1 of its first 2 imports did not succeed"
    control = BatchControl(redis, CONFIG)
    assert await control.resume("b")
    assert not await control.resume("b")
    rest = await claimed(store)
    assert [claim.item.id for claim in rest] == ["b2", "b3", "b4", "b5"]
    for claim in rest:
        await end(store, claim, State.FAILED)
    assert await batch_events(redis) == [
        ("batch.paused", "1 of its first 2 imports did not succeed"),
        ("batch.resumed", None),
        ("batch.completed", None),
    ]


@pytest.mark.parametrize(
    ("state", "is_paused", "started"), [(State.SUCCEEDED, False, 3), (State.FAILED, True, 0)]
)
async def test_imports_that_arrive_after_all_canaries_have_ended_are_decided_about(
    store: ImportStore, redis: Any, state: State, *, is_paused: bool, started: int
) -> None:
    await store.announce_batch("b", 2, StopRule(canary=2))
    await admit(store, 2)
    for claim in await claimed(store):
        await end(store, claim, state)
    assert await batch_events(redis) == [("batch.completed", None)]
    await admit(store, 3, first=2)
    counts = await counts_of(redis)
    assert (counts.is_paused, counts.held) == (is_paused, 3 - started)
    assert len(await claimed(store)) == started
    paused = [("batch.paused", "2 of its first 2 imports did not succeed")]
    assert (await batch_events(redis))[1:] == paused * is_paused
    await BatchControl(redis, CONFIG).resume("b")
    assert len(await claimed(store)) == 3 - started


async def test_a_share_of_failures_pauses_the_batch_and_no_longer_counts_when_it_resumes(
    store: ImportStore, redis: Any
) -> None:
    await store.announce_batch("b", 60, StopRule(stop_percent=10))
    await admit(store, 60)
    claims = (await store.claim(10))[0]
    for claim in claims[:2]:
        await end(store, claim, State.FAILED)
    assert not (await counts_of(redis)).is_paused, "2 of at least 20 are no more than 10 %"
    await end(store, claims[2], State.TIMED_OUT)
    counts = await counts_of(redis)
    assert counts.paused_reason == "3 of 3 imports did not succeed"
    for claim in claims[3:]:
        await end(store, claim)  # a started import continues
    assert await claimed(store) == []
    await BatchControl(redis, CONFIG).resume("b")
    for n, claim in enumerate(await claimed(store)):
        await end(store, claim, State.FAILED if n % 20 == 0 else State.SUCCEEDED)
    counts = await counts_of(redis)
    assert counts.completed
    assert counts.unsuccessful == 6


async def test_an_invalid_request_is_no_failure_of_the_batch(
    store: ImportStore, redis: Any
) -> None:
    await store.announce_batch("b", 3, StopRule(canary=1))
    envelope = Envelope(import_id="bad", task_id="bad", batch_id="b")
    await store.reject(envelope, ("-", "-"), ("-", "-"), "appId: is required")
    await admit(store, 2)
    assert not (await counts_of(redis)).is_paused
    assert [claim.item.id for claim in await claimed(store)] == ["b0"]


async def test_the_rule_of_the_first_message_applies(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("b", 4, StopRule(canary=1))
    await admit(store, 1)
    await store.announce_batch("b", 4, StopRule(canary=100, stop_percent=90))
    await admit(store, 3, first=1)
    assert len(await claimed(store)) == 1
    assert await redis.hget("imports:batch:b", "stop_percent") is None


async def test_a_batch_without_a_rule_is_paused_by_an_operator_alone(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, 10)
    for claim in (await store.claim(6))[0]:
        await end(store, claim, State.FAILED)
    control = BatchControl(redis, CONFIG)
    assert await control.pause("b", "freeze")
    assert not await control.pause("b", "again")
    assert await claimed(store) == []
    await admit(store, 1, first=10)
    await admit(store, 2, batch="other")
    assert [claim.item.id for claim in await claimed(store)] == ["other0", "other1"]
    assert (await counts_of(redis)).held == 5
    await control.resume("b")
    assert len(await claimed(store)) == 5


async def test_a_resumed_batch_takes_its_turns_and_no_more(store: ImportStore, redis: Any) -> None:
    await admit(store, 30)
    await BatchControl(redis, CONFIG).pause("b", "freeze")
    await admit(store, 40, batch="other")
    for claim in (await store.claim(20))[0]:
        await end(store, claim)
    await BatchControl(redis, CONFIG).resume("b")
    owners = [claim.item.batch_id for claim in (await store.claim(20))[0]]
    assert owners.count("other") == pytest.approx(10, abs=1)


async def test_a_large_batch_is_released_some_at_a_time(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("b", 1201, StopRule(canary=1))
    await admit(store, 1201)
    (canary,) = await claimed(store)
    await end(store, canary)
    await store.claim(1)
    assert (await counts_of(redis)).held == 700
    await store.claim(1)
    await store.claim(1)
    assert (await counts_of(redis)).held == 0
    assert await redis.exists("imports:releases") == 0


async def test_an_import_that_is_held_back_does_not_block_others_of_its_target(
    store: ImportStore, redis: Any
) -> None:
    for batch in ("first", "stopped", "other"):
        request = OPERATIONS.parse(members("dsame", batchId=batch))
        await store.admit(Envelope(import_id=batch, task_id=batch), request, "us-east-1")
    (first,) = await claimed(store)
    assert await claimed(store) == [], "the two others wait for the target"
    await BatchControl(redis, CONFIG).pause("stopped", "freeze")
    await end(store, first)
    assert [claim.item.id for claim in await claimed(store)] == ["other"]


async def test_an_incomplete_batch_expires_once_its_imports_are_over(
    store: ImportStore, redis: Any
) -> None:
    await store.announce_batch("b", 3)
    assert await redis.ttl("imports:batch:b") > 0, "its imports may never arrive"
    await admit(store, 1)
    assert await redis.ttl("imports:batch:b") == -1
    (claim,) = await claimed(store)
    await end(store, claim)
    for key in ("imports:batch:b", "imports:members:b"):
        assert await redis.ttl(key) > 0
    await admit(store, 1, first=1)
    for key in ("imports:batch:b", "imports:members:b"):
        assert await redis.ttl(key) == -1


async def test_the_last_import_of_a_batch_pauses_nothing(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("b", 2, StopRule(stop_percent=0))
    await admit(store, 2)
    for claim in await claimed(store):
        await end(store, claim, State.FAILED)
    assert await batch_events(redis) == [("batch.completed", None)]


async def test_commands_pause_and_resume_a_batch(command: CommandLine, store: ImportStore) -> None:
    await admit(store, 3)
    paused = command("batches", "pause", "b", "--reason", "change freeze")
    assert "amplify-import batches resume b" in paused.stdout
    assert "was already paused" in command("batches", "pause", "b").stdout
    assert await claimed(store) == []
    status, as_json, one = command.each(
        ("status", "b"), ("status", "b", "--json"), ("status", "b0")
    )
    assert status.returncode == 1
    assert "Paused: change freeze. To resume it: amplify-import batches resume b" in (status.stdout)
    shown = json.loads(as_json.stdout)
    assert (shown["stoppedReason"], shown["held"]) == ("change freeze", 3)
    assert "its batch b, which is paused" in one.stdout
    watched = command("watch", "b")
    assert (watched.returncode, "Paused: change freeze" in watched.stdout) == (1, True)
    assert command("batches", "resume", "b").stdout == "Batch b is resumed.\n"
    assert len(await claimed(store)) == 3
    assert command("batches", "resume", "b").stdout == "Batch b was not paused.\n"
    for name in ("pause", "resume"):
        unknown = command("batches", name, "nobody")
        assert (unknown.returncode, "There is no batch nobody" in unknown.stderr) == (4, True)


def test_a_file_is_submitted_with_canaries_and_continues_when_resumed(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    command: CommandLine,
    tmp_path: Path,
) -> None:
    file = tmp_path / "apps.jsonl"
    rows = [json.dumps(members(f"dfile{n}")) for n in range(12)]
    file.write_text("\n".join(rows))
    sandbox.script("dfile1", outcome="fail", duration_seconds=0.1)
    start_worker()
    done = command("submit", file, "--batch-id", "wave", "--canary", "3", "--watch")
    assert done.returncode == 1
    assert "Paused: 1 of its first 3 imports did not succeed." in done.stdout
    assert "amplify-import batches resume wave" in done.stdout
    started = {job["target"] for job in sandbox.jobs()}
    assert "dfile1/staging" in started
    assert started <= {f"dfile{n}/staging" for n in range(3)}
    command("batches", "resume", "wave")
    producer.wait_for_event("batch.completed", batchId="wave")
    assert len(sandbox.jobs()) == 12


@pytest.mark.parametrize(
    ("member", "value"),
    [("canary", -1), ("canary", "3"), ("stopPercent", 101), ("stopPercent", True)],
)
def test_a_bad_rule_is_named(
    start_worker: StartWorker, producer: Producer, member: str, value: Any
) -> None:
    start_worker()
    task = producer.send_batch("b", [members("d1")], **{member: value})
    with pytest.raises(Exception, match=f"{member}: must be"):
        task.get(timeout=60)
    assert not producer.events("import.accepted")


def test_run_ends_when_its_batch_pauses_and_continues_with_resume(
    command: CommandLine, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.script("dapp0", outcome="fail", duration_seconds=0.1)
    file = tmp_path / "apps.jsonl"
    file.write_text("\n".join(json.dumps(members(f"dapp{n}")) for n in range(6)))
    options = ("--state-dir", tmp_path / "state", "--batch-id", "b", "--canary", "2")
    quick = {
        "AWS_ENDPOINT_URL_AMPLIFYBACKEND": sandbox.url,
        "IMPORTS_POLL_MIN_SECONDS": "0.3",
        "IMPORTS_POLL_MAX_SECONDS": "1",
    }
    stopped = command("run", file, *options, **quick)
    assert stopped.returncode == 1
    assert "Paused: 1 of its first 2 imports did not succeed." in stopped.stdout
    assert "run the same command with --resume" in stopped.stdout
    started = {job["target"] for job in sandbox.jobs()}
    assert "dapp0/staging" in started
    assert started <= {"dapp0/staging", "dapp1/staging"}
    again = command("run", file, *options, **quick)
    assert again.returncode == 1
    assert {job["target"] for job in sandbox.jobs()} == started
    resumed = command("run", file, *options, "--resume", **quick)
    assert "5 of 6 succeeded, 1 did not succeed" in resumed.stdout
    assert len(sandbox.jobs()) == 6
