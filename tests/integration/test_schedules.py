"""Batches with a schedule: no import starts before its time, outside its window, or too soon."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.test_stop_rule import CONFIG, admit, claimed, counts_of, end
from tests.support import recording
from tests.support.stores import GENEROUS, MakeStore, TimedRedis
from worker.domain.claims import Call
from worker.domain.outcomes import StopRule
from worker.domain.schedules import Schedule
from worker.domain.states import State
from worker.store.control import BatchControl
from worker.store.store import ImportStore


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store(GENEROUS)


async def server_time(redis: Any) -> datetime:
    """Return the time that the scripts see."""
    seconds, microseconds = await redis.time()
    return datetime.fromtimestamp(
        seconds + float(await redis.get("test:seconds") or 0) + microseconds / 1e6, UTC
    )


async def window_in(redis: Any, hours: float, length: float = 2) -> str:
    """Return a window that opens in so many hours, and how long it is, in hours."""
    opens = await server_time(redis) + timedelta(hours=hours)
    return f"{opens:%H:%M}-{opens + timedelta(hours=length):%H:%M} UTC"


async def ids(store: ImportStore) -> list[str]:
    return [claim.item.id for claim in await claimed(store)]


async def test_a_batch_starts_nothing_before_its_time(
    store: ImportStore, redis: TimedRedis
) -> None:
    begin = await server_time(redis) + timedelta(hours=3)
    start_at_ms = round(begin.timestamp() * 1000)
    await store.announce_batch("b", 3, schedule=Schedule(start_at_ms=start_at_ms))
    await admit(store, 3)
    await admit(store, 1, "other")
    (other,) = await claimed(store)
    assert other.item.id == "other0"
    await end(store, other)
    counts = await counts_of(redis)
    assert (counts.held, counts.is_paused) == (3, False)

    await redis.advance(3 * 3600 - 10)
    claims, wait_seconds = await store.claim(10)
    assert claims == []
    assert wait_seconds is not None
    assert wait_seconds <= 10, "the conductor would sleep past the beginning"
    await redis.advance(11)
    assert await ids(store) == ["b0", "b1", "b2"]


async def test_a_window_closes_and_opens_again(store: ImportStore, redis: TimedRedis) -> None:
    """Imports that run when it closes go on; imports that are in a lane by then do not start."""
    await store.announce_batch("b", 5, schedule=Schedule(window=await window_in(redis, 1)))
    await admit(store, 5)
    assert await ids(store) == []
    await redis.advance(3600 + 60)
    (first, second), _ = await store.claim(2)
    assert (first.item.id, second.item.id) == ("b0", "b1")
    await recording.run(store, first, job_id="j", operation="o", status="RUNNING", delay_seconds=1)
    assert (await counts_of(redis)).held == 0, "all are in their lane"

    await redis.advance(2 * 3600)
    polls = await claimed(store)
    assert {(claim.item.id, claim.call) for claim in polls} == {
        ("b0", Call.POLL),
        ("b1", Call.RECONCILE),
    }
    await end(store, polls[0] if polls[0].call is Call.POLL else polls[1])
    await store.announce_batch("b", 5, schedule=Schedule(max_per_hour=1))  # the first one counts
    assert await ids(store) == []
    assert (await counts_of(redis)).held == 3

    await redis.advance(22 * 3600)
    assert [i for i in await ids(store) if i != "b1"] == ["b2", "b3", "b4"]


async def test_a_start_in_doubt_is_not_repeated_outside_the_window(
    store: ImportStore, redis: TimedRedis
) -> None:
    await store.announce_batch("b", 2, schedule=Schedule(window=await window_in(redis, -1)))
    await admit(store, 1)
    (start,) = await claimed(store)
    await redis.advance(3600 + 60)
    (doubted,) = await claimed(store)  # the lease has ended
    assert doubted.call is Call.RECONCILE
    await recording.not_started(store, doubted, None)
    assert await ids(store) == []
    assert await redis.hget("imports:target:default/us-east-1/db0/staging", "holder") == "b0"
    await redis.advance(22 * 3600)
    (again,) = await claimed(store)
    assert (again.item.id, again.call) == (start.item.id, Call.START)


async def test_nothing_starts_behind_the_openings_that_are_known(
    store: ImportStore, redis: TimedRedis
) -> None:
    """If no worker computes them again, nothing starts; as soon as one does, the batch goes on."""
    await store.announce_batch("b", 2, schedule=Schedule(window="00:00-24:00 UTC"))
    await admit(store, 2)
    await redis.advance(9 * 24 * 3600)
    assert await ids(store) == []
    await store.renew_openings()
    assert await ids(store) == ["b0", "b1"]


@pytest.mark.parametrize("most", [1, 7, 200, 6000])
async def test_no_hour_has_more_starts_than_are_allowed(
    store: ImportStore, redis: TimedRedis, most: int
) -> None:
    total = min(2 * most + 1, 450)
    await store.announce_batch("b", total, schedule=Schedule(max_per_hour=most))
    await admit(store, total)
    started: list[float] = []
    while len(started) < total:
        claims, wait_seconds = await store.claim(500)
        now = (await server_time(redis)).timestamp()
        started += [now for claim in claims if claim.call is Call.START]
        for claim in claims:
            await end(store, claim)
        assert wait_seconds is not None or len(started) == total
        await redis.advance(wait_seconds or 0)
    busiest = max(sum(at <= each < at + 3599 for each in started) for at in started)
    assert busiest <= most
    took = started[-1] - started[0]
    assert took <= (total - 1) / most * 3600 * 1.03 + 1, "the hour is not used"


async def test_imports_that_wait_for_their_hour_are_not_looked_at(
    store: ImportStore, redis: TimedRedis
) -> None:
    await store.announce_batch("b", 300, schedule=Schedule(max_per_hour=60))
    await admit(store, 300)
    assert len(await ids(store)) == 2, "a minute's starts at once, and one"
    assert (await counts_of(redis)).held == 298
    few = await commands_of_a_claim(store, redis)
    await admit(store, 300, first=300)
    assert await commands_of_a_claim(store, redis) == few


async def commands_of_a_claim(store: ImportStore, redis: Any) -> int:
    """Return how many commands the server runs for a claim that finds nothing to start."""
    assert await ids(store) == []
    await redis.config_resetstat()
    assert await ids(store) == []
    stats = await redis.info("commandstats")
    return sum(each["calls"] for each in stats.values())


async def test_canaries_wait_for_the_window_and_the_others_for_the_canaries(
    store: ImportStore, redis: TimedRedis
) -> None:
    schedule = Schedule(window=await window_in(redis, 1), max_per_hour=36_000)
    await store.announce_batch("b", 6, StopRule(canary=2), schedule)
    await admit(store, 6)
    assert await ids(store) == []
    await redis.advance(3600 + 60)
    canaries = await claimed(store)
    assert [claim.item.id for claim in canaries] == ["b0", "b1"]
    await redis.advance(2 * 3600)
    for claim in canaries:
        await end(store, claim)
    assert await ids(store) == [], "the canaries have succeeded, but the window is closed"
    await redis.advance(22 * 3600)
    rest = await claimed(store)
    assert [claim.item.id for claim in rest] == ["b2", "b3", "b4", "b5"]
    for claim in rest:
        await end(store, claim)
    for n in range(6):
        await store.note_task_done(f"b{n}", f"b{n}")
    await redis.zadd("imports:lanes", {"default/us-east-1": 0})
    await store.claim(10)
    await store.wait_for_hint(0.01)
    assert not await redis.exists("imports:openings", "imports:schedules")


async def test_a_canary_that_came_too_late_for_the_window_is_still_one(
    store: ImportStore, redis: TimedRedis
) -> None:
    schedule = Schedule(window=await window_in(redis, 1))
    await store.announce_batch("b", 4, StopRule(canary=2), schedule)
    await admit(store, 4)
    await redis.advance(3600 + 60)
    (first,), _ = await store.claim(1)
    await redis.advance(2 * 3600)
    assert await ids(store) == ["b0"], "its lease has ended, and it is reconciled"
    await redis.advance(22 * 3600)
    assert set(await ids(store)) == {first.item.id, "b1"}


async def test_a_pause_and_a_window_combine(store: ImportStore, redis: TimedRedis) -> None:
    control = BatchControl(redis, CONFIG)
    await store.announce_batch("b", 2, schedule=Schedule(window=await window_in(redis, 1)))
    await admit(store, 2)
    await control.pause("b", "a freeze")
    await redis.advance(3600 + 60)
    assert await ids(store) == [], "it is open, but paused"
    await redis.advance(2 * 3600)
    await control.resume("b")
    assert await ids(store) == [], "it is resumed, but closed"
    assert not (await counts_of(redis)).is_paused
    await redis.advance(22 * 3600)
    assert await ids(store) == ["b0", "b1"]


async def test_the_schedule_of_a_batch_can_be_changed(
    store: ImportStore, redis: TimedRedis
) -> None:
    control = BatchControl(redis, CONFIG)
    await store.announce_batch("b", 4)
    await admit(store, 4)
    await control.schedule("b", Schedule(max_per_hour=30))
    (first,) = await ids(store)
    assert first == "b0"
    assert (await counts_of(redis)).held == 3
    await control.schedule("b", Schedule(window=await window_in(redis, 5)))
    await redis.advance(3600)
    assert await ids(store) == ["b0"], "only the reconciliation of the first"
    await control.schedule("b", Schedule(max_per_hour=30), clear=True)
    assert await ids(store) == ["b1"]
    await control.schedule("b", Schedule(), clear=True)
    assert await ids(store) == ["b2", "b3"]
    assert not await redis.exists("imports:openings", "imports:schedules")


async def test_a_cancelled_import_is_not_waited_for(store: ImportStore, redis: TimedRedis) -> None:
    await store.announce_batch("b", 1, schedule=Schedule(window=await window_in(redis, 1)))
    await admit(store, 1)
    await store.cancel("b0", "no longer wanted")
    assert (await counts_of(redis)).by_state[State.CANCELLED] == 1
    assert not await redis.exists("imports:openings", "imports:schedules", "imports:held:b")


async def test_workers_of_an_earlier_release_leave_scheduled_imports_alone(
    store: ImportStore, redis: TimedRedis
) -> None:
    await store.announce_batch("b", 1, schedule=Schedule(max_per_hour=10))
    await admit(store, 1)
    await admit(store, 1, "other")
    assert await redis.hget("imports:import:b0", "format") == "5"
    assert await redis.hget("imports:import:other0", "format") == "4"
