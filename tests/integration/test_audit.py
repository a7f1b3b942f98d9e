"""The audit, on a real server: all sorts of imports pass, each damage is seen for what it is."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import pytest

from tests.support import CommandLine, members
from worker.domain.claims import Claim, Doubt
from worker.domain.outcomes import Entrance, LaneLimits, StopRule
from worker.domain.requests import ImportRequest
from worker.domain.states import State
from worker.store.audit import AuditReport, audit
from worker.store.batches import BatchControl
from worker.store.promises import Promise
from worker.store.store import ImportStore, StoreConfig

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


async def look(redis: Any, **changes: Any) -> AuditReport:
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
    entrance = Entrance(import_id=name, task_id=name, batch_id=batch_id)
    request = ImportRequest.parse(members(more.pop("app", f"d{name.replace('-', '')}"), **more))
    await store.admit(entrance, request, "us-east-1")


async def claim(store: ImportStore) -> Claim:
    claims, _ = await store.claim(1)
    assert len(claims) == 1, "exactly one call is due"
    return claims[0]


async def run(store: ImportStore, claimed: Claim, delay_seconds: float = 60) -> None:
    assert await store.run(
        claimed, job_id="j1", operation="Op", status="BUSY", delay_seconds=delay_seconds
    )


async def end(store: ImportStore, claimed: Claim, state: State) -> None:
    error = "" if state is State.SUCCEEDED else "no pool"
    assert await store.finish(
        claimed, state, error=error, job_id="j1", operation="Op", status="DONE"
    )


async def reject(store: ImportStore, name: str, batch_id: str = "") -> None:
    entrance = Entrance(import_id=name, task_id=name, batch_id=batch_id)
    await store.reject(entrance, ("-", "-"), ("-", "-"), "appId: no")


async def fill(store: ImportStore, redis: Any) -> None:
    """Bring an import into every state and every queue that there is, named after where it is."""
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
    await store.doubt(
        await claim(store), Doubt.UNKNOWN, error="reset", delay_seconds=60, in_outage=False
    )
    await admit(store, "delayed")
    await store.requeue(await claim(store), delay_seconds=60, counted=True, error="no")
    await _fill_again_after_doubt(store)
    await admit(store, "starting")
    assert (await claim(store)).item.id == "starting"
    await admit(store, "parked", app="dstarting")
    await _fill_held(store, redis)
    assert (await store.claim(1))[0] == [], "the parked one only moves"
    for name, priority in (("waiting", "normal"), ("urgent", "high")):
        await admit(store, name, priority=priority, idempotencyKey=name)


async def _fill_over(store: ImportStore) -> None:
    await store.announce_batch("over", 5)
    await reject(store, "rejected", "over")
    for name, state in (("succeeded", State.SUCCEEDED), ("failed", State.FAILED)):
        await admit(store, name, "over", idempotencyKey=name)
        await run(store, await claim(store), delay_seconds=0)
        await store.reschedule(await claim(store), stuck=True)
        await end(store, await claim(store), state)
    await store.settle("succeeded", "succeeded")
    await admit(store, "cancelled", "over")
    await store.cancel("cancelled", "wrong pool")
    await admit(store, "alias", "over", app="dsucceeded", idempotencyKey="succeeded")


async def _fill_again_after_doubt(store: ImportStore) -> None:
    await admit(store, "again")
    await store.doubt(
        await claim(store), Doubt.UNKNOWN, error="reset", delay_seconds=0, in_outage=False
    )
    await store.requeue(await claim(store), delay_seconds=60, counted=True, error="no job found")


async def _fill_held(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("stopped", 3)
    await admit(store, "first", "stopped")
    await run(store, await claim(store))
    await admit(store, "held", "stopped")
    assert await BatchControl(redis, CONFIG).stop("stopped", "wait")
    await admit(store, "held-too", "stopped")
    await store.announce_batch("canaries", 3, StopRule(canary=1, stop_percent=None))
    await admit(store, "canary", "canaries")
    await run(store, await claim(store))
    await admit(store, "behind", "canaries")


async def test_all_sorts_of_imports_pass(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    report = await look(redis)
    assert seen(report) == set()
    assert report.held
    assert report.not_checkable == 0
    assert report.examined == {
        Promise.OUTCOME: 19,
        Promise.PLACE: 14,
        Promise.TARGET: 10,
        Promise.BATCH: 3,
        Promise.LANE: 1,
        Promise.TASK: 5,
        Promise.OVERDUE: 13,
        Promise.RETENTION: 61,
    }


Damage = Callable[[Any], Awaitable[object]]


async def event_entry(redis: Any, event_id: str) -> tuple[str, dict[str, Any]]:
    for entry_id, fields in await redis.xrange("imports:events"):
        event = json.loads(fields["event"])
        if event["id"] == event_id:
            return entry_id, event
    raise AssertionError(f"there is no event {event_id}")


async def tell(redis: Any, event: dict[str, Any]) -> None:
    await redis.xadd("imports:events", {"event": json.dumps(event)})


def untold(event_id: str) -> Damage:
    async def damage(redis: Any) -> None:
        entry_id, _ = await event_entry(redis, event_id)
        assert await redis.xdel("imports:events", entry_id)

    return damage


def told_again(event_id: str, **changes: Any) -> Damage:
    async def damage(redis: Any) -> None:
        _, event = await event_entry(redis, event_id)
        await tell(redis, {**event, **changes})

    return damage


def told_of(import_id: str, name: str) -> Damage:
    """Tell of the end of an import that has not ended so."""

    async def damage(redis: Any) -> None:
        _, event = await event_entry(redis, f"{import_id}/accepted")
        data = {**event["data"], "outcome": name}
        changes = {"id": f"{import_id}/{name}", "type": f"import.{name}", "data": data}
        await tell(redis, {**event, **changes})

    return damage


async def told_of_a_completion(redis: Any) -> None:
    _, event = await event_entry(redis, "over/completed/5")
    await tell(redis, {**event, "id": "stopped/completed/3", "subject": "stopped"})


async def told_late(redis: Any) -> None:
    entry_id, event = await event_entry(redis, "failed/started")
    await redis.xdel("imports:events", entry_id)
    await tell(redis, event)


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
DUE = "2001-09-09T01:46:40.000Z, and nobody took it up"
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
        told_again("failed/failed"),
        {(Promise.OUTCOME, "failed", "import.failed was told 2 times")},
    ),
    "an acceptance told twice": (
        told_again("waiting/accepted"),
        {(Promise.OUTCOME, "waiting", "import.accepted was told 2 times")},
    ),
    "an end that was not told": (
        untold("failed/failed"),
        {(Promise.OUTCOME, "failed", "it is failed, and import.failed was never told")},
    ),
    "an acceptance that was not told": (
        untold("waiting/accepted"),
        {(Promise.OUTCOME, "waiting", "it is waiting, and import.accepted was never told")},
    ),
    "a start that was not told": (
        untold("running/started"),
        {(Promise.OUTCOME, "running", "it is running, and import.started was never told")},
    ),
    "an end told of what runs": (
        told_of("running", "failed"),
        {(Promise.OUTCOME, "running", "it is running, and import.failed was told")},
    ),
    "two ends": (
        told_of("failed", "succeeded"),
        {
            (
                Promise.OUTCOME,
                "failed",
                "it has more than one end: import.failed, import.succeeded",
            ),
            (Promise.OUTCOME, "failed", "it is failed, and import.succeeded was told"),
        },
    ),
    "a start told after the end": (
        told_late,
        {
            (
                Promise.OUTCOME,
                "failed",
                "its events came in another order than accepted, started, ended",
            )
        },
    ),
    "no JSON": (
        lambda redis: redis.xadd("imports:events", {"event": "nonsense"}, id=f"{LATER}-0"),
        {
            (
                Promise.OUTCOME,
                f"{LATER}-0",
                "the entry holds no JSON object in its field `event`",
            )
        },
    ),
    "no CloudEvent": (
        told_again("failed/failed", specversion="2"),
        {(Promise.OUTCOME, "failed/failed", "the event is no CloudEvent 1.0")},
    ),
    "an event without its time": (
        told_again("failed/failed", time=None),
        {(Promise.OUTCOME, "failed/failed", "the event has no time")},
    ),
    "an event of no known type": (
        told_again("failed/failed", type="import.lost"),
        {(Promise.OUTCOME, "failed/failed", "nobody knows events of type import.lost")},
    ),
    "an event without data": (
        told_again("failed/failed", data=[]),
        {(Promise.OUTCOME, "failed/failed", "the event has no data")},
    ),
    "an event under another's id": (
        told_again("failed/failed", id="other/failed"),
        {
            (
                Promise.OUTCOME,
                "other/failed",
                "the event's id is not that of its import and its type",
            )
        },
    ),
    "an event with another outcome": (
        told_again("failed/failed", data={"importId": "failed", "outcome": "succeeded"}),
        {
            (
                Promise.OUTCOME,
                "failed/failed",
                "an event of type import.failed tells of the outcome succeeded",
            )
        },
    ),
    "a batch's event told twice": (
        told_again("over/completed/5"),
        {(Promise.OUTCOME, "over/completed/5", "the event was told more than once")},
    ),
    "a record lost under way": (
        done(("DEL", "imports:import:urgent")),
        {
            (
                Promise.OUTCOME,
                "urgent",
                "it was accepted and has not ended, and its record is gone",
            ),
            (
                Promise.PLACE,
                "urgent",
                f"it stands in imports:waiting:{LANE}:high, and has no record",
            ),
            (Promise.RETENTION, "imports:tasks:urgent", "its import is over or gone, and it stays"),
            (
                Promise.RETENTION,
                "imports:history:urgent",
                "its import is over or gone, and it stays",
            ),
            (
                Promise.RETENTION,
                key_of_idempotency("urgent"),
                "its import is over or gone, and it stays",
            ),
        },
    ),
    "a record lost after its end": (
        done(("DEL", "imports:import:failed")),
        {(Promise.OUTCOME, "failed", "its record is gone before the retention time is over")},
    ),
    "a job that nobody polls": (
        done(("ZREM", POLLS, "running")),
        {(Promise.PLACE, "running", "it is running, and stands in no queue")},
    ),
    "an import in two queues": (
        done(("ZADD", DELAYED, LATER, "waiting")),
        {(Promise.PLACE, "waiting", "it is waiting, and stands in delayed, waiting")},
    ),
    "an import in a queue of another state": (
        done(("ZREM", WAITING, "waiting"), ("ZADD", POLLS, LATER, "waiting")),
        {(Promise.PLACE, "waiting", "it is waiting, and stands in polls")},
    ),
    "an end that is still polled": (
        done(("ZADD", POLLS, LATER, "failed")),
        {(Promise.PLACE, "failed", "it is failed, and still stands in polls")},
    ),
    "a late end that is still asked for": (
        done(("HSET", "imports:import:followed", "late_outcome", "succeeded")),
        {(Promise.PLACE, "followed", "it is cancelled, and still stands in late")},
    ),
    "a late end that nobody asks for": (
        done(("ZREM", LATE, "followed")),
        {(Promise.PLACE, "followed", "it is cancelled, and nobody looks for the end of its job")},
    ),
    "an id that nobody knows": (
        done(("ZADD", POLLS, LATER, "ghost")),
        {(Promise.PLACE, "ghost", f"it stands in {POLLS}, and has no record")},
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
                "it stands in imports:delayed:other/eu-west-1, where it doesn't belong",
            )
        },
    ),
    "a record without its target": (
        done(("HDEL", "imports:import:running", "app_id")),
        {
            (
                Promise.PLACE,
                "running",
                "its record can't be read: its state is 'running', or its target is missing",
            ),
            (Promise.TARGET, RUNNING, "it is held by running, an import of another target"),
        },
    ),
    "a job whose target is free": (
        done(("HDEL", TARGET % "running", "holder")),
        {(Promise.TARGET, "running", "it is running, and its target is held by nobody")},
    ),
    "a target held by one that waits": (
        done(("HSET", TARGET % "waiting", "holder", "waiting")),
        {(Promise.TARGET, f"{LANE}/dwaiting/staging", "it is held by waiting, which only waits")},
    ),
    "a target held by one that is over": (
        done(("HSET", TARGET % "failed", "holder", "failed"), ("PERSIST", TARGET % "failed")),
        {(Promise.TARGET, FAILED, "it is held by failed, which is failed")},
    ),
    "a target held by nobody known": (
        done(("HSET", TARGET % "failed", "holder", "ghost"), ("PERSIST", TARGET % "failed")),
        {(Promise.TARGET, FAILED, "it is held by ghost, which has no record")},
    ),
    "a target held by another's import": (
        done(("HSET", TARGET % "failed", "holder", "running"), ("PERSIST", TARGET % "failed")),
        {(Promise.TARGET, FAILED, "it is held by running, an import of another target")},
    ),
    "a held target that expires": (
        done(("EXPIRE", TARGET % "running", 50)),
        {(Promise.TARGET, RUNNING, "it is held by running, and is about to be forgotten")},
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
                "it is free, and waiting still waits for it",
            )
        },
    ),
    "an import counted twice": (
        done(("HINCRBY", "imports:batch:over", "failed", 1)),
        {(Promise.BATCH, "over", "it counts 4 accepted, and 5 by state")},
    ),
    "an import counted in another state": (
        lambda redis: count_otherwise(redis, "stopped", "running", "starting"),
        {
            (Promise.BATCH, "stopped", "it counts 0 running, and 1 of its imports are"),
            (Promise.BATCH, "stopped", "it counts 1 starting, and 0 of its imports are"),
        },
    ),
    "an end counted as another": (
        lambda redis: count_otherwise(redis, "over", "failed", "timed_out"),
        {(Promise.BATCH, "over", "it counts 0 failed, and 1 of its imports are")},
    ),
    "a member that was not counted": (
        done(("ZADD", "imports:members:over", 1, "ghost")),
        {(Promise.BATCH, "over", "it has 6 members, and counts 5")},
    ),
    "a batch that is over and not completed": (
        done(("HDEL", "imports:batch:over", "completed_at_ms")),
        {(Promise.BATCH, "over", "all its 5 imports are over, and it is not completed")},
    ),
    "a batch completed too early": (
        done(("HSET", "imports:batch:stopped", "completed_at_ms", 1)),
        {(Promise.BATCH, "stopped", "it is completed, and 0 of 3 are over")},
    ),
    "a completion that was not told": (
        untold("over/completed/5"),
        {(Promise.BATCH, "over", "it is completed, and no batch.completed told of 5")},
    ),
    "a completion told too early": (
        told_of_a_completion,
        {(Promise.BATCH, "stopped", "batch.completed told of 3, and 0 are over")},
    ),
    "imports held back for ever": (
        done(("HDEL", "imports:batch:stopped", "gate", "stopped_reason")),
        {
            (
                Promise.BATCH,
                "stopped",
                "its gate is open, and 2 of its imports are held back for ever",
            )
        },
    ),
    "a batch stopped for no reason": (
        done(("HDEL", "imports:batch:stopped", "stopped_reason")),
        {(Promise.BATCH, "stopped", "its gate is stopped, and its reason None")},
    ),
    "a batch that waits for no canaries": (
        done(("HDEL", "imports:batch:canaries", "canary")),
        {(Promise.BATCH, "canaries", "it waits for canaries, and has none")},
    ),
    "a stranded lane": (
        done(("ZREM", "imports:lanes", LANE)),
        {(Promise.LANE, LANE, "it has work, and nobody is going to look at it")},
    ),
    "a forgotten task": (
        done(("ZREM", "imports:unfinished", "failed")),
        {
            (
                Promise.TASK,
                "failed",
                "it is over and owes tasks their end, and nobody is going to look at it",
            )
        },
    ),
    "a task ended too early": (
        done(("ZADD", "imports:unfinished", LATER, "waiting")),
        {(Promise.TASK, "waiting", "it is waiting, and its tasks are about to be ended")},
    ),
    "a lease that nobody took over": (
        done(("ZADD", LEASES, "CH", PAST, "starting")),
        {(Promise.OVERDUE, "starting", f"a call's lease ended at {DUE}")},
    ),
    "a start that nobody made": (
        done(("ZADD", DELAYED, "CH", PAST, "delayed")),
        {(Promise.OVERDUE, "delayed", f"a start was due at {DUE}")},
    ),
    "a task that nobody ended": (
        done(("ZADD", "imports:unfinished", "CH", PAST, "failed")),
        {(Promise.OVERDUE, "failed", f"a task was to be ended at {DUE}")},
    ),
    "a lane that nobody looks at": (
        done(("ZADD", POLLS, "CH", PAST, "running"), ("ZADD", "imports:lanes", "CH", PAST, LANE)),
        {
            (Promise.OVERDUE, "running", f"a poll was due at {DUE}"),
            (Promise.OVERDUE, LANE, f"it was due at {DUE}"),
        },
    ),
    "a record that stays": (
        done(("PERSIST", "imports:import:failed")),
        {(Promise.RETENTION, "failed", "it is over, and its record would stay for ever")},
    ),
    "a record that expires too early": (
        done(("EXPIRE", "imports:import:waiting", 50)),
        {(Promise.RETENTION, "waiting", "it is waiting, and its record is about to expire")},
    ),
    "tasks that stay": (
        done(("PERSIST", "imports:tasks:failed")),
        {(Promise.RETENTION, "imports:tasks:failed", "its import is over or gone, and it stays")},
    ),
    "a target that stays": (
        done(("PERSIST", TARGET % "failed")),
        {(Promise.RETENTION, TARGET % "failed", "nobody needs it, and it stays")},
    ),
    "a batch that stays": (
        done(("PERSIST", "imports:batch:over"), ("PERSIST", "imports:members:over")),
        {
            (Promise.RETENTION, "imports:batch:over", "the batch is over, and it stays"),
            (Promise.RETENTION, "imports:members:over", "the batch is over, and it stays"),
        },
    ),
    "a batch that expires too early": (
        done(("EXPIRE", "imports:batch:stopped", 50)),
        {
            (
                Promise.RETENTION,
                "imports:batch:stopped",
                "the batch is not over, and it is about to expire",
            )
        },
    ),
    "a key that nobody knows": (
        done(("SET", "imports:nonsense", 1)),
        {(Promise.RETENTION, "imports:nonsense", "no key of that name is known")},
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_seen_for_what_it_is(store: ImportStore, redis: Any, name: str) -> None:
    damage, expected = DAMAGES[name]
    await fill(store, redis)
    await damage(redis)
    assert seen(await look(redis)) == expected


async def test_an_empty_store_passes(redis: Any) -> None:
    report = await look(redis)
    assert report.held
    assert set(report.examined.values()) == {0}


async def test_a_poll_that_waits_for_the_limit_of_its_lane_is_not_overdue(
    store: ImportStore, redis: Any
) -> None:
    await fill(store, redis)
    await redis.zadd(POLLS, {"running": PAST})
    assert seen(await look(redis)) == set()


async def test_nothing_is_overdue_in_a_paused_lane(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    await redis.zadd(LEASES, {"starting": PAST})
    await redis.zadd("imports:lanes", {LANE: PAST})
    assert len(seen(await look(redis))) == 2
    await redis.hset(f"imports:lane:{LANE}", "paused_reason", "expired")
    assert seen(await look(redis)) == set()
    await redis.hdel(f"imports:lane:{LANE}", "paused_reason")
    assert seen(await look(redis, patience_seconds=10**10)) == set()


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
    assert seen(await look(redis)) == set()
    await redis.zrem(WAITING, "i2")
    assert seen(await look(redis)) == {
        (Promise.PLACE, "i2", "it is waiting, and stands in no queue"),
        (Promise.TARGET, target, "it is free, and i3 still waits for it"),
    }


async def test_what_looks_wrong_once_is_no_violation(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    damage, _ = DAMAGES["a job that nobody polls"]
    await damage(redis)
    mended = asyncio.create_task(look(redis, pause_seconds=1))
    await asyncio.sleep(0.5)
    assert not mended.done(), "it looks again"
    await redis.zadd(POLLS, {"running": LATER})
    assert seen(await mended) == set()


async def test_a_trimmed_stream_is_told_of_and_what_is_left_is_checked(
    store: ImportStore, redis: Any
) -> None:
    await fill(store, redis)
    entry_id, _ = await event_entry(redis, "in-doubt/accepted")
    await asyncio.sleep(0.002)  # no two of the following share a millisecond with it
    await admit(store, "late")
    await store.cancel("late", "wrong pool")
    await redis.xtrim("imports:events", minid=entry_id, approximate=False)
    report = await look(redis)
    assert seen(report) == set()
    assert report.not_checkable == 7, "those before it"
    await untold("late/cancelled")(redis)
    assert seen(await look(redis)) == {
        (Promise.OUTCOME, "late", "it is cancelled, and import.cancelled was never told")
    }


async def test_events_without_records_after_the_retention_time_are_in_order(
    make_store: Any, redis: Any
) -> None:
    store = await make_store(retention_seconds=0.2)
    await store.announce_batch("b", 1)
    for _ in range(2):  # who sends a file again so late imports it again
        await admit(store, "i1", "b")
        await end(store, await claim(store), State.SUCCEEDED)
        await asyncio.sleep(0.25)
    assert await redis.exists("imports:import:i1", "imports:batch:b") == 0
    report = await look(redis, retention_seconds=0.2)
    assert (report.events, seen(report)) == (6, set())


async def test_a_batch_is_audited_alone(store: ImportStore, redis: Any) -> None:
    await fill(store, redis)
    for name in ("a job that nobody polls", "a key that nobody knows", "no JSON"):
        await DAMAGES[name][0](redis)
    report = await look(redis, batch_id="over")
    assert seen(report) == set()
    assert report.examined[Promise.OUTCOME] == 4
    assert report.events == 12
    for name in ("an end told twice", "a record that stays", "a target that stays"):
        await DAMAGES[name][0](redis)
    assert len(seen(await look(redis, batch_id="over"))) == 3
    assert len(seen(await look(redis))) == 6


async def test_a_live_system_gives_no_false_alarm(make_store: Any, redis: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
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
            reports.append(await look(redis, pause_seconds=0.1))
    finally:
        over.set()
        await asyncio.gather(*live)
    assert [seen(report) for report in reports] == [set()] * len(reports)
    ended = [
        report.examined[Promise.OUTCOME] - report.examined[Promise.PLACE] for report in reports
    ]
    assert len(reports) > 3
    assert ended[-1] > ended[0] + 50, "imports ended in the meantime"


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
        await store.note_late(claimed, outcome="succeeded", status="DONE", error="")
    elif chance < 0.1:
        await store.doubt(
            claimed, Doubt.UNKNOWN, error="reset", delay_seconds=0.02, in_outage=False
        )
    elif claimed.item.state is State.STARTING and chance < 0.3:
        await store.requeue(claimed, delay_seconds=0.02 if chance < 0.2 else 0)
    elif claimed.item.state is State.STARTING and chance < 0.9:
        await store.run(claimed, job_id="j1", operation="Op", status="BUSY", delay_seconds=0.02)
    else:
        state = State.SUCCEEDED if chance < 0.6 else State.FAILED
        await store.finish(claimed, state, error="", job_id="", operation="", status="DONE")
        await store.settle(claimed.item.id, claimed.item.id)


async def _interfere(
    store: ImportStore, batches: BatchControl, draw: random.Random, over: asyncio.Event
) -> None:
    while not over.is_set():
        await store.cancel(f"i{draw.randrange(500)}", "by hand")
        batch_id = f"b{draw.randrange(3)}"
        await (batches.stop(batch_id, "wait") if draw.random() < 0.3 else batches.resume(batch_id))
        await asyncio.sleep(0.01)


async def test_the_command_ends_with_0_when_all_held(
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
    assert "No batch nobody is known" in unknown.stderr


async def test_the_command_ends_with_1_and_says_what_did_not_hold(
    store: ImportStore, redis: Any, command: CommandLine
) -> None:
    await fill(store, redis)
    await redis.zadd(POLLS, {f"ghost-{number:02}": LATER for number in range(25)})
    done, everything, as_json = command.each(
        ("audit",), ("audit", "--all"), ("audit", "--json"), **SHORT
    )
    assert [done.returncode, everything.returncode, as_json.returncode] == [1, 1, 1]
    assert f"one place: ghost-00: it stands in {POLLS}, and has no record." in done.stdout
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
        "sentence": f"it stands in {POLLS}, and has no record",
    }


async def test_the_command_tells_of_events_that_were_trimmed(
    store: ImportStore, redis: Any, command: CommandLine
) -> None:
    await fill(store, redis)
    await redis.xtrim("imports:events", maxlen=1, approximate=False)
    done = command("audit", **SHORT)
    assert done.returncode == 0
    assert "Not checkable in full: 18 imports, whose first events were trimmed" in done.stdout


def test_the_command_ends_with_3_when_the_store_cannot_be_reached(command: CommandLine) -> None:
    done = command("audit", IMPORTS_REDIS_URL=NOWHERE)
    assert done.returncode == 3
    assert "can't be reached" in done.stderr
    assert "hidden" not in done.stderr


SHORT = {"IMPORTS_RETENTION_SECONDS": str(RETENTION_SECONDS), "IMPORTS_LEASE_SECONDS": "30"}
