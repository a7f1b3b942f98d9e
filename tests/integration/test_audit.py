"""The audit, on a real server: imports in every state pass, and each damage is reported."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import pytest

from tests.support import CommandLine, members, recording
from worker.audit.auditor import AuditReport, audit
from worker.audit.promises import Promise
from worker.domain.claims import Claim, Doubt
from worker.domain.outcomes import Envelope, LaneLimits, StopRule
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store import records
from worker.store.config import StoreConfig
from worker.store.control import BatchControl
from worker.store.store import ImportStore

LANE = "default/us-east-1"
RETENTION_SECONDS = 60
CONFIG = StoreConfig(
    retention_seconds=RETENTION_SECONDS,
    events_max_length=10_000,
    lease_seconds=30,
    settle_seconds=0,
)
NOWHERE = "redis://:hidden@127.0.0.1:1/0"


@pytest.fixture
async def store(make_store: Any) -> ImportStore:
    store: ImportStore = await make_store()
    return store


async def run_audit(redis: Any, **changes: Any) -> AuditReport:
    return await audit(
        redis,
        **{
            "lease_seconds": 30,
            "retention_seconds": RETENTION_SECONDS,
            "pause_seconds": 0.01,
            **changes,
        },
    )


def seen(report: AuditReport) -> set[tuple[str, str, str]]:
    return {(found.promise, found.subject, found.sentence) for found in report.violations}


async def admit(store: ImportStore, name: str, batch_id: str = "", **more: Any) -> None:
    envelope = Envelope(import_id=name, task_id=name, batch_id=batch_id)
    request = OPERATIONS.parse(members(more.pop("app", f"d{name.replace('-', '')}"), **more))
    await store.admit(envelope, request, "us-east-1")


async def claim(store: ImportStore) -> Claim:
    claims, _ = await store.claim(1)
    assert len(claims) == 1, "exactly one call is due"
    return claims[0]


async def run(store: ImportStore, claimed: Claim, delay_seconds: float = 60) -> None:
    assert await recording.run(
        store, claimed, job_id="j1", operation="Op", status="BUSY", delay_seconds=delay_seconds
    )


async def end(store: ImportStore, claimed: Claim, state: State) -> None:
    error = "" if state is State.SUCCEEDED else "no pool"
    assert await recording.finish(
        store, claimed, state, error=error, job_id="j1", operation="Op", status="DONE"
    )


async def reject(store: ImportStore, name: str, batch_id: str = "") -> None:
    envelope = Envelope(import_id=name, task_id=name, batch_id=batch_id)
    await store.reject(envelope, ("-", "-"), ("-", "-"), "appId: no")


async def fill(store: ImportStore, redis: Any) -> None:
    """Bring an import into every state and every queue; its id is the name of that place."""
    await _fill_over(store)
    await admit(store, "running")
    await run(store, await claim(store))
    await admit(store, "followed")
    await run(store, await claim(store))
    await store.cancel("followed", "wrong pool")
    await admit(store, "polled")
    await run(store, await claim(store), delay_seconds=0)
    assert (await claim(store)).item.id == "polled"
    await admit(store, "in-doubt")
    await recording.doubt(
        store, await claim(store), Doubt.UNKNOWN, error="reset", delay_seconds=60, in_outage=False
    )
    await admit(store, "delayed")
    await recording.retry(store, await claim(store), delay_seconds=60, error="no")
    await _fill_again_after_doubt(store)
    await admit(store, "starting")
    assert (await claim(store)).item.id == "starting"
    await admit(store, "parked", app="dstarting")
    await _fill_held(store, redis)
    assert (await store.claim(1))[0] == [], "a claim only moves the parked import"
    for name, priority in (("waiting", "normal"), ("urgent", "high")):
        await admit(store, name, priority=priority, idempotencyKey=name)


async def _fill_over(store: ImportStore) -> None:
    await store.announce_batch("over", 5)
    await reject(store, "rejected", "over")
    for name, state in (("succeeded", State.SUCCEEDED), ("failed", State.FAILED)):
        await admit(store, name, "over", idempotencyKey=name)
        await run(store, await claim(store), delay_seconds=0)
        await recording.poll_again(store, await claim(store), stuck=True)
        await end(store, await claim(store), state)
    await store.note_task_done("succeeded", "succeeded")
    await admit(store, "cancelled", "over")
    await store.cancel("cancelled", "wrong pool")
    await admit(store, "alias", "over", app="dsucceeded", idempotencyKey="succeeded")


async def _fill_again_after_doubt(store: ImportStore) -> None:
    await admit(store, "again")
    await recording.doubt(
        store, await claim(store), Doubt.UNKNOWN, error="reset", delay_seconds=0, in_outage=False
    )
    await recording.retry(store, await claim(store), delay_seconds=60, error="no job found")


async def _fill_held(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("stopped", 3)
    await admit(store, "first", "stopped")
    await run(store, await claim(store))
    await admit(store, "held", "stopped")
    assert await BatchControl(redis, CONFIG).pause("stopped", "wait")
    await admit(store, "held-too", "stopped")
    await store.announce_batch("canaries", 3, StopRule(canary=1, stop_percent=None))
    await admit(store, "canary", "canaries")
    await run(store, await claim(store))
    await admit(store, "behind", "canaries")


async def test_imports_in_every_state_pass(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    report = await run_audit(redis)
    assert seen(report) == set()
    assert report.is_clean
    assert report.not_checkable == 0
    assert report.examined == {
        Promise.OUTCOME: 19,
        Promise.PLACE: 14,
        Promise.TARGET: 10,
        Promise.BATCH: 3,
        Promise.LANE: 1,
        Promise.TASK: 5,
        Promise.OVERDUE: 13,
        Promise.RETENTION: 38,
    }


Damage = Callable[[Any], Awaitable[object]]


async def event_entry(redis: Any, event_id: str) -> tuple[str, dict[str, Any]]:
    for entry_id, fields in await redis.xrange("imports:events"):
        event = json.loads(fields["event"])
        if event["id"] == event_id:
            return entry_id, event
    raise AssertionError(f"there is no event {event_id}")


async def append_event(redis: Any, event: dict[str, Any]) -> None:
    await redis.xadd("imports:events", {"event": json.dumps(event)})


def without_event(event_id: str) -> Damage:
    async def damage(redis: Any) -> None:
        entry_id, _ = await event_entry(redis, event_id)
        assert await redis.xdel("imports:events", entry_id)

    return damage


def repeated(event_id: str, **changes: Any) -> Damage:
    async def damage(redis: Any) -> None:
        _, event = await event_entry(redis, event_id)
        await append_event(redis, {**event, **changes})

    return damage


def with_end_of(import_id: str, name: str) -> Damage:
    """Append the end of an import that has not ended so."""

    async def damage(redis: Any) -> None:
        _, event = await event_entry(redis, f"{import_id}/accepted")
        data = {**event["data"], "outcome": name}
        changes = {"id": f"{import_id}/{name}", "type": f"import.{name}", "data": data}
        await append_event(redis, {**event, **changes})

    return damage


async def with_early_completion(redis: Any) -> None:
    _, event = await event_entry(redis, "over/completed/5")
    await append_event(redis, {**event, "id": "stopped/completed/3", "subject": "stopped"})


async def with_late_start(redis: Any) -> None:
    entry_id, event = await event_entry(redis, "failed/started")
    await redis.xdel("imports:events", entry_id)
    await append_event(redis, event)


def done(*commands: tuple[Any, ...]) -> Damage:
    """Damage the store with these commands, each of which must change something."""

    async def damage(redis: Any) -> None:
        for command in commands:
            assert await redis.execute_command(*command) not in (0, None), command

    return damage


async def count_otherwise(redis: Any, batch_id: str, state: str, other: str) -> None:
    await redis.hincrby(f"imports:batch:{batch_id}", state, -1)
    await redis.hincrby(f"imports:batch:{batch_id}", other, 1)


def key_of_idempotency(key: str) -> str:
    return f"imports:idempotency:{sha256(key.encode()).hexdigest()}"


LATER = 4_000_000_000_000
PAST = 1_000_000_000_000
DUE = "2001-09-09T01:46:40.000Z, but no worker has acted on it"
NOT_COMPLETED = (
    "it has ended, but its task has not been completed and nothing is scheduled to do so"
)
NO_EXPIRY = "its import has ended or has no record, but this key has no expiry"
POLLS = f"imports:polls:{LANE}"
LATE = f"imports:late:{LANE}"
DELAYED = f"imports:delayed:{LANE}"
LEASES = f"imports:leases:{LANE}"
WAITING = f"imports:waiting:{LANE}:normal"
TARGET = f"imports:target:{LANE}/d%s/staging"
RUNNING = f"{LANE}/drunning/staging"
FAILED = f"{LANE}/dfailed/staging"

DAMAGES: dict[str, tuple[Damage, set[tuple[str, str, str]]]] = {
    "an end told twice": (
        repeated("failed/failed"),
        {(Promise.OUTCOME, "failed", "import.failed was emitted 2 times")},
    ),
    "an acceptance told twice": (
        repeated("waiting/accepted"),
        {(Promise.OUTCOME, "waiting", "import.accepted was emitted 2 times")},
    ),
    "an end that was not told": (
        without_event("failed/failed"),
        {(Promise.OUTCOME, "failed", "it is failed, but import.failed was never emitted")},
    ),
    "an acceptance that was not told": (
        without_event("waiting/accepted"),
        {(Promise.OUTCOME, "waiting", "it is waiting, but import.accepted was never emitted")},
    ),
    "a start that was not told": (
        without_event("running/started"),
        {(Promise.OUTCOME, "running", "it is running, but import.started was never emitted")},
    ),
    "an end told of what runs": (
        with_end_of("running", "failed"),
        {(Promise.OUTCOME, "running", "it is running, but import.failed was emitted")},
    ),
    "two ends": (
        with_end_of("failed", "succeeded"),
        {
            (
                Promise.OUTCOME,
                "failed",
                "it has more than one terminal event: import.failed, import.succeeded",
            ),
            (Promise.OUTCOME, "failed", "it is failed, but import.succeeded was emitted"),
        },
    ),
    "a start told after the end": (
        with_late_start,
        {
            (
                Promise.OUTCOME,
                "failed",
                "its events are not in the order accepted, started, ended",
            )
        },
    ),
    "no JSON": (
        lambda redis: redis.xadd("imports:events", {"event": "nonsense"}, id=f"{LATER}-0"),
        {
            (
                Promise.OUTCOME,
                f"{LATER}-0",
                "the field `event` of this entry is not a JSON object",
            )
        },
    ),
    "no CloudEvent": (
        repeated("failed/failed", specversion="2"),
        {(Promise.OUTCOME, "failed/failed", "the event is not a CloudEvent 1.0")},
    ),
    "an event without its time": (
        repeated("failed/failed", time=None),
        {(Promise.OUTCOME, "failed/failed", "the event has no time")},
    ),
    "an event of no known type": (
        repeated("failed/failed", type="import.lost"),
        {(Promise.OUTCOME, "failed/failed", "import.lost is not a known event type")},
    ),
    "an event without data": (
        repeated("failed/failed", data=[]),
        {(Promise.OUTCOME, "failed/failed", "the event has no data")},
    ),
    "an event under another's id": (
        repeated("failed/failed", id="other/failed"),
        {
            (
                Promise.OUTCOME,
                "other/failed",
                "the event's id does not match its import and its type",
            )
        },
    ),
    "an event with another outcome": (
        repeated("failed/failed", data={"importId": "failed", "outcome": "succeeded"}),
        {
            (
                Promise.OUTCOME,
                "failed/failed",
                "the outcome of this import.failed event is succeeded",
            )
        },
    ),
    "a batch's event told twice": (
        repeated("over/completed/5"),
        {(Promise.OUTCOME, "over/completed/5", "the event was emitted more than once")},
    ),
    "a record lost under way": (
        done(("DEL", "imports:import:urgent")),
        {
            (
                Promise.OUTCOME,
                "urgent",
                "it was accepted and has not ended, but it has no record",
            ),
            (
                Promise.PLACE,
                "urgent",
                f"it is in imports:waiting:{LANE}:high, but has no record",
            ),
            (
                Promise.RETENTION,
                key_of_idempotency("urgent"),
                NO_EXPIRY,
            ),
        },
    ),
    "a record lost after its end": (
        done(("DEL", "imports:import:failed")),
        {
            (
                Promise.OUTCOME,
                "failed",
                "its record was removed before the retention time had passed",
            )
        },
    ),
    "a job that is not polled": (
        done(("ZREM", POLLS, "running")),
        {(Promise.PLACE, "running", "it is running, but it is in no queue")},
    ),
    "an import in two queues": (
        done(("ZADD", DELAYED, LATER, "waiting")),
        {(Promise.PLACE, "waiting", "it is waiting, but it is in the queues delayed and waiting")},
    ),
    "an import in a queue of another state": (
        done(("ZREM", WAITING, "waiting"), ("ZADD", POLLS, LATER, "waiting")),
        {(Promise.PLACE, "waiting", "it is waiting, but it is in the queue polls")},
    ),
    "an end that is still polled": (
        done(("ZADD", POLLS, LATER, "failed")),
        {(Promise.PLACE, "failed", "it is failed, but it is still in the queue polls")},
    ),
    "a recorded late end that is still polled": (
        done(("HSET", "imports:import:followed", "late_outcome", "succeeded")),
        {(Promise.PLACE, "followed", "it is cancelled, but it is still in the queue late")},
    ),
    "a late end that is not polled": (
        done(("ZREM", LATE, "followed")),
        {
            (
                Promise.PLACE,
                "followed",
                "it is cancelled, but no worker is scheduled to check how its job ends",
            )
        },
    ),
    "an unknown id": (
        done(("ZADD", POLLS, LATER, "ghost")),
        {(Promise.PLACE, "ghost", f"it is in {POLLS}, but has no record")},
    ),
    "an import in another lane's queue": (
        done(
            ("ZADD", "imports:delayed:other/eu-west-1", LATER, "waiting"),
            ("ZADD", "imports:lanes", LATER, "other/eu-west-1"),
        ),
        {
            (
                Promise.PLACE,
                "waiting",
                "it is in imports:delayed:other/eu-west-1, where it does not belong",
            )
        },
    ),
    "a record without its target": (
        done(("HDEL", "imports:import:running", records.SHORT["app_id"])),
        {
            (
                Promise.PLACE,
                "running",
                "its record can't be read: its state is 'running', or its target is missing",
            ),
            (Promise.TARGET, RUNNING, "it is held by import running, which has another target"),
        },
    ),
    "a job whose target is free": (
        done(("HDEL", TARGET % "running", "holder")),
        {(Promise.TARGET, "running", "it is running, but its target is held by no import")},
    ),
    "a target held by a waiting import": (
        done(("HSET", TARGET % "waiting", "holder", "waiting")),
        {
            (
                Promise.TARGET,
                f"{LANE}/dwaiting/staging",
                "it is held by import waiting, which is waiting to start",
            )
        },
    ),
    "a target held by an ended import": (
        done(("HSET", TARGET % "failed", "holder", "failed"), ("PERSIST", TARGET % "failed")),
        {(Promise.TARGET, FAILED, "it is held by import failed, which has ended as failed")},
    ),
    "a target held by an unknown import": (
        done(("HSET", TARGET % "failed", "holder", "ghost"), ("PERSIST", TARGET % "failed")),
        {(Promise.TARGET, FAILED, "it is held by import ghost, which has no record")},
    ),
    "a target held by another's import": (
        done(("HSET", TARGET % "failed", "holder", "running"), ("PERSIST", TARGET % "failed")),
        {(Promise.TARGET, FAILED, "it is held by import running, which has another target")},
    ),
    "a held target that expires": (
        done(("EXPIRE", TARGET % "running", 50)),
        {(Promise.TARGET, RUNNING, "it is held by import running, but its key is set to expire")},
    ),
    "an import parked behind a free target": (
        done(
            ("ZREM", WAITING, "waiting"),
            ("ZADD", f"imports:parked:{LANE}/dwaiting/staging", 1, "waiting"),
        ),
        {
            (
                Promise.TARGET,
                f"{LANE}/dwaiting/staging",
                "it is free, but import waiting still waits for it",
            )
        },
    ),
    "an import counted twice": (
        done(("HINCRBY", "imports:batch:over", "failed", 1)),
        {(Promise.BATCH, "over", "4 imports were accepted, but its counts by state add up to 5")},
    ),
    "an import counted in another state": (
        lambda redis: count_otherwise(redis, "stopped", "running", "starting"),
        {
            (
                Promise.BATCH,
                "stopped",
                "its count for running is 0, but 1 of its imports are running",
            ),
            (
                Promise.BATCH,
                "stopped",
                "its count for starting is 1, but 0 of its imports are starting",
            ),
        },
    ),
    "an end counted as another": (
        lambda redis: count_otherwise(redis, "over", "failed", "timed_out"),
        {(Promise.BATCH, "over", "its count for failed is 0, but 1 of its imports are failed")},
    ),
    "a member that was not counted": (
        done(("ZADD", "imports:members:over", 1, "ghost")),
        {(Promise.BATCH, "over", "it has 6 members, but counts only 5")},
    ),
    "a batch that is over and not completed": (
        done(("HDEL", "imports:batch:over", "completed_at_ms")),
        {(Promise.BATCH, "over", "all its 5 imports have ended, but it is not completed")},
    ),
    "a batch completed too early": (
        done(("HSET", "imports:batch:stopped", "completed_at_ms", 1)),
        {(Promise.BATCH, "stopped", "it is completed, but 0 of its 3 imports have ended")},
    ),
    "a completion that was not told": (
        without_event("over/completed/5"),
        {
            (
                Promise.BATCH,
                "over",
                "it is completed, but batch.completed was never emitted for 5 imports",
            )
        },
    ),
    "a completion told too early": (
        with_early_completion,
        {(Promise.BATCH, "stopped", "batch.completed was emitted for 3 imports, but 0 have ended")},
    ),
    "imports held back forever": (
        done(("HDEL", "imports:batch:stopped", "gate", "stopped_reason")),
        {
            (
                Promise.BATCH,
                "stopped",
                "it is not paused, but 2 of its imports are held back forever",
            )
        },
    ),
    "a batch stopped for no reason": (
        done(("HDEL", "imports:batch:stopped", "stopped_reason")),
        {(Promise.BATCH, "stopped", "it is paused, but the reason is missing")},
    ),
    "a reason for no pause": (
        done(("HSET", "imports:batch:over", "stopped_reason", "wait")),
        {(Promise.BATCH, "over", "it is not paused, but has a reason for a pause: 'wait'")},
    ),
    "a batch that the index does not list": (
        done(("ZREM", "imports:batches", "stopped")),
        {(Promise.BATCH, "stopped", "the index of batches does not list it")},
    ),
    "a batch of an earlier release, which had no index": (
        done(("ZREM", "imports:batches", "over"), ("HDEL", "imports:batch:over", "created_at_ms")),
        set(),
    ),
    "a batch in the index that has expired": (done(("ZADD", "imports:batches", 1, "gone")), set()),
    "a batch that waits for no canaries": (
        done(("HDEL", "imports:batch:canaries", "canary")),
        {(Promise.BATCH, "canaries", "it waits for its canaries, but has none")},
    ),
    "imports held back though the canaries have ended": (
        done(("HSET", "imports:batch:canaries", "judged", 2)),
        {
            (
                Promise.BATCH,
                "canaries",
                "its canaries have ended, but its imports are still held back",
            )
        },
    ),
    "a stranded lane": (
        done(("ZREM", "imports:lanes", LANE)),
        {(Promise.LANE, LANE, "it has work, but no worker is scheduled to look at it")},
    ),
    "a forgotten task": (
        done(("ZREM", "imports:unfinished", "failed")),
        {
            (
                Promise.TASK,
                "failed",
                NOT_COMPLETED,
            )
        },
    ),
    "a task ended too early": (
        done(("ZADD", "imports:unfinished", LATER, "waiting")),
        {(Promise.TASK, "waiting", "it is waiting, but its task is scheduled to be completed")},
    ),
    "a lease that was not taken over": (
        done(("ZADD", LEASES, "CH", PAST, "starting")),
        {(Promise.OVERDUE, "starting", f"the lease of a call expired at {DUE}")},
    ),
    "a start that was not made": (
        done(("ZADD", DELAYED, "CH", PAST, "delayed")),
        {(Promise.OVERDUE, "delayed", f"a start was due at {DUE}")},
    ),
    "a task that was not ended": (
        done(("ZADD", "imports:unfinished", "CH", PAST, "failed")),
        {(Promise.OVERDUE, "failed", f"its task was to be completed at {DUE}")},
    ),
    "a lane that no conductor looks at": (
        done(("ZADD", POLLS, "CH", PAST, "running"), ("ZADD", "imports:lanes", "CH", PAST, LANE)),
        {
            (Promise.OVERDUE, "running", f"a poll was due at {DUE}"),
            (Promise.OVERDUE, LANE, f"it was due at {DUE}"),
        },
    ),
    "a record that stays": (
        done(("PERSIST", "imports:import:failed")),
        {(Promise.RETENTION, "failed", "it has ended, but its record has no expiry")},
    ),
    "a record that expires too early": (
        done(("EXPIRE", "imports:import:waiting", 50)),
        {(Promise.RETENTION, "waiting", "it is waiting, but its record is set to expire")},
    ),
    "tasks that stay": (
        done(("PERSIST", "imports:tasks:failed")),
        {(Promise.RETENTION, "imports:tasks:failed", NO_EXPIRY)},
    ),
    "a target that stays": (
        done(("PERSIST", TARGET % "failed")),
        {(Promise.RETENTION, TARGET % "failed", "no import holds it, but this key has no expiry")},
    ),
    "a batch that stays": (
        done(("PERSIST", "imports:batch:over"), ("PERSIST", "imports:members:over")),
        {
            (
                Promise.RETENTION,
                "imports:batch:over",
                "the batch has ended, but this key has no expiry",
            ),
            (
                Promise.RETENTION,
                "imports:members:over",
                "the batch has ended, but this key has no expiry",
            ),
        },
    ),
    "a batch that expires too early": (
        done(("EXPIRE", "imports:batch:stopped", 50)),
        {
            (
                Promise.RETENTION,
                "imports:batch:stopped",
                "the batch has not ended, but this key is set to expire",
            )
        },
    ),
    "an unknown key": (
        done(("SET", "imports:nonsense", 1)),
        {(Promise.RETENTION, "imports:nonsense", "this version does not know this key")},
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_each_damage_is_reported_for_what_it_is(
    store: ImportStore, redis: Any, name: str
) -> None:
    damage, expected = DAMAGES[name]
    await fill(store, redis)
    await damage(redis)
    assert seen(await run_audit(redis)) == expected


async def test_an_empty_store_passes(redis: Any) -> None:
    report = await run_audit(redis)
    assert report.is_clean
    assert set(report.examined.values()) == {0}


async def test_a_poll_that_waits_for_the_limit_of_its_lane_is_not_overdue(
    store: ImportStore, redis: Any
) -> None:
    await fill(store, redis)
    await redis.zadd(POLLS, {"running": PAST})
    assert seen(await run_audit(redis)) == set()


async def test_nothing_is_overdue_in_a_paused_lane(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    await redis.zadd(LEASES, {"starting": PAST})
    await redis.zadd("imports:lanes", {LANE: PAST})
    assert len(seen(await run_audit(redis))) == 2
    await redis.hset(f"imports:lane:{LANE}", "paused_reason", "expired")
    assert seen(await run_audit(redis)) == set()
    await redis.hdel(f"imports:lane:{LANE}", "paused_reason")
    assert seen(await run_audit(redis, patience_seconds=10**10)) == set()


async def test_what_waits_for_a_target_that_another_is_about_to_take_is_not_forgotten(
    store: ImportStore, redis: Any
) -> None:
    for name in ("i1", "i2", "i3"):
        await admit(store, name, app="dsame")
    first, _ = await store.claim(10)
    await end(store, first[0], State.SUCCEEDED)
    target = f"{LANE}/dsame/staging"
    assert await redis.zrange(f"imports:parked:{target}", 0, -1) == ["i3"]
    assert await redis.hget(f"imports:target:{target}", "holder") is None
    assert seen(await run_audit(redis)) == set()
    await redis.zrem(WAITING, "i2")
    assert seen(await run_audit(redis)) == {
        (Promise.PLACE, "i2", "it is waiting, but it is in no queue"),
        (Promise.TARGET, target, "it is free, but import i3 still waits for it"),
    }


async def test_what_looks_wrong_only_once_is_no_violation(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    damage, _ = DAMAGES["a job that is not polled"]
    await damage(redis)
    rerun = asyncio.create_task(run_audit(redis, pause_seconds=1))
    await asyncio.sleep(0.5)
    assert not rerun.done(), "the audit looks again"
    await redis.zadd(POLLS, {"running": LATER})
    assert seen(await rerun) == set()


async def test_a_trimmed_stream_is_reported_and_the_rest_is_checked(
    store: ImportStore, redis: Any
) -> None:
    await fill(store, redis)
    entry_id, _ = await event_entry(redis, "in-doubt/accepted")
    await asyncio.sleep(0.002)  # none of the following events may have the same millisecond
    await admit(store, "late")
    await store.cancel("late", "wrong pool")
    await redis.xtrim("imports:events", minid=entry_id, approximate=False)
    report = await run_audit(redis)
    assert seen(report) == set()
    assert report.not_checkable == 7, "those before it"
    await without_event("late/cancelled")(redis)
    assert seen(await run_audit(redis)) == {
        (Promise.OUTCOME, "late", "it is cancelled, but import.cancelled was never emitted")
    }


async def test_events_without_records_after_the_retention_time_are_no_violation(
    make_store: Any, redis: Any
) -> None:
    store = await make_store(retention_seconds=0.2)
    await store.announce_batch("b", 1)
    for _ in range(2):  # a producer that repeats a file this late imports it again
        await admit(store, "i1", "b")
        await end(store, await claim(store), State.SUCCEEDED)
        await asyncio.sleep(0.25)
    assert await redis.exists("imports:import:i1", "imports:batch:b") == 0
    report = await run_audit(redis, retention_seconds=0.2)
    assert (report.events, seen(report)) == (6, set())


async def test_a_batch_is_audited_alone(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    for name in ("a job that is not polled", "an unknown key", "no JSON"):
        await DAMAGES[name][0](redis)
    report = await run_audit(redis, batch_id="over")
    assert seen(report) == set()
    assert report.examined[Promise.OUTCOME] == 4
    assert report.events == 12
    for name in ("an end told twice", "a record that stays", "a target that stays"):
        await DAMAGES[name][0](redis)
    assert len(seen(await run_audit(redis, batch_id="over"))) == 3
    assert len(seen(await run_audit(redis))) == 6


async def test_a_live_system_gives_no_false_alarm(make_store: Any, redis: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown if the test fails
    draw = random.Random(seed)
    store = await make_store(
        LaneLimits(start_rate=400, start_burst=20, poll_rate=400, poll_burst=20)
    )
    over = asyncio.Event()
    live = [
        asyncio.create_task(work)
        for work in (
            _produce(store, draw, over),
            *(_conduct(store, draw, over) for _ in range(4)),
            _interfere(store, BatchControl(redis, CONFIG), draw, over),
        )
    ]
    try:
        reports: list[AuditReport] = []
        while not reports or reports[-1].examined[Promise.OUTCOME] < 500:
            reports.append(await run_audit(redis, pause_seconds=0.1))
    finally:
        over.set()
        await asyncio.gather(*live)
    assert [seen(report) for report in reports] == [set()] * len(reports)
    ended = [
        report.examined[Promise.OUTCOME] - report.examined[Promise.PLACE] for report in reports
    ]
    assert len(reports) > 3
    assert ended[-1] > ended[0] + 50, "imports ended during the audits"


async def _produce(store: ImportStore, draw: random.Random, over: asyncio.Event) -> None:
    number = 0
    while not over.is_set():
        number += 1
        batch_id = f"b{number % 3}" * (number % 4 > 0)
        priority = draw.choice(["high", "normal", "low"])
        app = f"d{draw.randrange(60)}" if number % 5 else f"dalone{number}"
        await admit(store, f"i{number}", batch_id, app=app, priority=priority)
        if number % 10 == 0:
            await reject(store, f"r{number}", batch_id)
        await asyncio.sleep(0.002)


async def _conduct(store: ImportStore, draw: random.Random, over: asyncio.Event) -> None:
    while not over.is_set():
        claims, _ = await store.claim(10)
        for claimed in claims:
            await _answer(store, claimed, draw.random())
        await asyncio.sleep(0.002)


async def _answer(store: ImportStore, claimed: Claim, chance: float) -> None:
    if claimed.item.is_terminal:
        await recording.note_late(store, claimed, outcome="succeeded", status="DONE", error="")
    elif chance < 0.1:
        await recording.doubt(
            store, claimed, Doubt.UNKNOWN, error="reset", delay_seconds=0.02, in_outage=False
        )
    elif claimed.item.state is State.STARTING and chance < 0.3:
        await recording.retry(store, claimed, delay_seconds=0.02 if chance < 0.2 else 0)
    elif claimed.item.state is State.STARTING and chance < 0.9:
        await recording.run(
            store, claimed, job_id="j1", operation="Op", status="BUSY", delay_seconds=0.02
        )
    else:
        state = State.SUCCEEDED if chance < 0.6 else State.FAILED
        await recording.finish(
            store, claimed, state, error="", job_id="", operation="", status="DONE"
        )
        await store.note_task_done(claimed.item.id, claimed.item.id)


async def _interfere(
    store: ImportStore, batches: BatchControl, draw: random.Random, over: asyncio.Event
) -> None:
    while not over.is_set():
        await store.cancel(f"i{draw.randrange(500)}", "by hand")
        batch_id = f"b{draw.randrange(3)}"
        await (batches.pause(batch_id, "wait") if draw.random() < 0.3 else batches.resume(batch_id))
        await asyncio.sleep(0.01)


async def test_the_command_exits_with_0_if_all_promises_hold(
    store: ImportStore, redis: Any, command: CommandLine
) -> None:
    await fill(store, redis)
    done, of_batch, as_json, unknown = command.each(
        ("audit",), ("audit", "over"), ("audit", "--json"), ("audit", "nobody"), **SHORT
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["promise", "examined", "violations"]
    assert lines[1] == ["one", "outcome", "19", "0"]
    assert len(lines) == 1 + len(Promise)
    assert of_batch.returncode == 0
    report = json.loads(as_json.stdout)
    assert (report["ok"], report["notCheckable"], report["violations"]) == (True, 0, [])
    assert report["promises"][1] == {"promise": "one place", "examined": 14, "violations": 0}
    assert unknown.returncode == 4
    assert "There is no batch nobody in this store" in unknown.stderr


async def test_the_command_exits_with_1_and_reports_violations(
    store: ImportStore, redis: Any, command: CommandLine
) -> None:
    await fill(store, redis)
    await redis.zadd(POLLS, {f"ghost-{number:02}": LATER for number in range(25)})
    done, everything, as_json = command.each(
        ("audit",), ("audit", "--all"), ("audit", "--json"), **SHORT
    )
    assert [done.returncode, everything.returncode, as_json.returncode] == [1, 1, 1]
    assert f"one place: ghost-00: it is in {POLLS}, but has no record." in done.stdout
    assert "ghost-20" not in done.stdout
    assert "... and 5 more: --all lists them." in done.stdout
    assert everything.stdout.count("ghost-") == 25
    assert "more:" not in everything.stdout
    report = json.loads(as_json.stdout)
    assert report["ok"] is False
    assert len(report["violations"]) == 25
    assert report["promises"][1]["violations"] == 25
    assert report["violations"][0] == {
        "promise": "one place",
        "subject": "ghost-00",
        "sentence": f"it is in {POLLS}, but has no record",
    }


async def test_the_command_reports_trimmed_events(
    store: ImportStore, redis: Any, command: CommandLine
) -> None:
    await fill(store, redis)
    await redis.xtrim("imports:events", maxlen=1, approximate=False)
    done = command("audit", **SHORT)
    assert done.returncode == 0
    assert "Not checkable in full: 18 imports, whose first events were trimmed" in done.stdout


def test_the_command_exits_with_3_when_the_store_cannot_be_reached(command: CommandLine) -> None:
    done = command("audit", IMPORTS_REDIS_URL=NOWHERE)
    assert done.returncode == 3
    assert "can't be reached" in done.stderr
    assert "hidden" not in done.stderr


SHORT = {"IMPORTS_RETENTION_SECONDS": str(RETENTION_SECONDS), "IMPORTS_LEASE_SECONDS": "30"}
