"""Limits in the scripts: configured, shared, learned, lost, and limits on the number of jobs."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.support import members, recording
from tests.support.stores import GENEROUS, MakeStore
from worker.domain.claims import Call, Claim
from worker.domain.outcomes import Envelope, LaneLimits
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import BatchControl, LaneControl
from worker.store.laneview import LaneView, Source
from worker.store.records import SHORT
from worker.store.store import ImportStore
from worker.store.views import ImportViews

pytestmark = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)

LANE = "default/us-east-1"
LIMITER = f"imports:limiter:{LANE}:start"


async def admit(store: ImportStore, *apps: str, **more: Any) -> None:
    for app in apps:
        request = OPERATIONS.parse(members(app, **more))
        await store.admit(Envelope(import_id=f"i-{app}", task_id=f"i-{app}"), request, "us-east-1")


async def claimed(store: ImportStore, limit: int = 100) -> list[Claim]:
    return (await store.claim(limit))[0]


async def run(store: ImportStore, claim: Claim, delay_seconds: float = 60) -> None:
    claim = replace(claim, answered=True)
    await recording.run(
        store, claim, job_id="j", operation="", status="", delay_seconds=delay_seconds
    )


async def end(store: ImportStore, claim: Claim) -> None:
    claim = replace(claim, answered=True)
    await recording.finish(
        store, claim, State.SUCCEEDED, error="", job_id="j", operation="", status=""
    )


async def throttle(store: ImportStore, claim: Claim, *, concurrent: bool = False) -> str:
    """Answer a start with a 429; return the limit that applies from then on."""
    _, kept = await recording.throttle(
        store, claim, retry_after_seconds=None, limit_type="", concurrent=concurrent
    )
    return kept


async def lane_of(redis: Any) -> LaneView:
    lane = await ImportViews(redis).lane(LANE)
    assert lane is not None
    return lane


def by(lane: LaneView) -> str:
    """Return who configured a lane."""
    assert lane.configured is not None
    return lane.configured.by


async def test_a_limit_is_learned_by_all_workers_together(
    make_store: MakeStore, redis: Any
) -> None:
    stores = [await make_store(LaneLimits()) for _ in range(2)]
    await admit(stores[0], *(f"d{n}" for n in range(20)))
    granted = 0
    while granted < 6:
        for store in stores:
            for claim in await claimed(store):
                granted += 1
                await run(store, claim)
        await asyncio.sleep(0.02)
    assert 4 < float(await redis.hget(LIMITER, "pace")) <= 4 + 6 * 0.65 + 1e-9
    (claim,) = await _next(stores[0])
    assert "/s" in await throttle(stores[1], claim)
    rate = (await lane_of(redis)).start_budget.rate
    assert rate.source is Source.LEARNED
    assert rate.value == pytest.approx(5.5, abs=2.5)


async def _next(store: ImportStore) -> list[Claim]:
    while True:
        claims, wait_seconds = await store.claim(1)
        if claims:
            return claims
        await asyncio.sleep(wait_seconds or 0.01)


@pytest.mark.parametrize("damage", [{"tokens": "nan"}, {"pace": ""}, {"rate": "-1"}, None])
async def test_a_lost_or_damaged_limiter_starts_again(
    make_store: MakeStore, redis: Any, damage: dict[str, str] | None
) -> None:
    store = await make_store(LaneLimits())
    await admit(store, "d1", "d2")
    await run(store, (await claimed(store))[0])
    if damage:
        await redis.hset(LIMITER, mapping=damage)
    else:
        await redis.delete(LIMITER)
    assert [claim.item.id for claim in await _next(store)] == ["i-d2"]


async def test_starts_and_polls_share_a_budget_of_which_starts_keep_their_share(
    make_store: MakeStore,
) -> None:
    limits = LaneLimits(shared=True, shared_rate=100, shared_burst=10, start_share=0.25)
    store = await make_store(limits)
    await admit(store, *(f"d{n}" for n in range(60)))
    running = await _next(store)
    for _ in range(12):
        for claim in running:
            await run(store, claim, delay_seconds=0)
        await asyncio.sleep(0.1)
        running = [claim for claim in await claimed(store) if claim.call is Call.START]
    calls = {Call.START: 0, Call.POLL: 0}
    for _ in range(30):
        await asyncio.sleep(0.05)
        for claim in await claimed(store):
            calls[claim.call] += 1
            if claim.call is Call.START:
                await run(store, claim, delay_seconds=0)
            else:
                await recording.poll_again(store, claim)
    share = calls[Call.START] / sum(calls.values())
    assert share == pytest.approx(0.25, abs=0.05), calls
    assert sum(calls.values()) <= 10 + 100 * 30 * 0.07


async def test_the_unused_part_of_a_shared_budget_goes_to_the_other_class(
    make_store: MakeStore,
) -> None:
    store = await make_store(LaneLimits(shared=True, shared_rate=50, shared_burst=10))
    await admit(store, *(f"d{n}" for n in range(20)))
    assert (
        len(await claimed(store)) == 5
    )  # half of the burst of ten: the other half is reserved for polls


async def test_the_last_configuration_applies_to_all_workers_and_is_shown(
    make_store: MakeStore, redis: Any
) -> None:
    one, other = await make_store(GENEROUS), await make_store(GENEROUS)
    assert await one.configure(LaneLimits(start_rate=3), {}, by="one") == [""]
    lanes = {LANE: LaneLimits(start_rate=0.001, start_burst=1)}
    assert await other.configure(LaneLimits(start_rate=3), lanes, by="other") == [LANE]
    assert await other.configure(LaneLimits(start_rate=3), lanes, by="other") == []
    await admit(one, "d1", "d2")
    assert len(await claimed(one)) == 1
    assert await claimed(one) == [], "a worker with another configuration uses it too"
    lane = await lane_of(redis)
    assert (lane.start_budget.rate.value, by(lane)) == (0.001, "other")
    assert await one.configure(LaneLimits(start_rate=50), {}, by="one") == ["", LANE]
    await asyncio.sleep(0.05)  # a new limit starts with the tokens that were left
    assert len(await claimed(one)) == 1
    assert by(await lane_of(redis)) == "one"


async def test_a_reset_lane_learns_again(make_store: MakeStore, redis: Any) -> None:
    store = await make_store(LaneLimits())
    control = LaneControl(redis, _config())
    await admit(store, "d1", "d2", "d3")
    await throttle(store, (await claimed(store))[0])
    assert (await lane_of(redis)).start_budget.rate.value is not None
    await control.reset(LANE)
    lane = await lane_of(redis)
    assert (lane.start_budget.rate.value, lane.ceiling) == (None, None)
    await asyncio.sleep(0.3)  # the limit starts with the tokens that were left
    assert len(await claimed(store)) == 1


def _config() -> StoreConfig:
    return StoreConfig(
        retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
    )


async def test_grants_from_before_a_reset_teach_nothing(make_store: MakeStore, redis: Any) -> None:
    store = await make_store(LaneLimits())
    await admit(store, "d1", "d2")
    (late,) = await claimed(store)
    await LaneControl(redis, _config()).reset(LANE)
    await throttle(store, late)
    limiter = await redis.hgetall(LIMITER)
    assert (limiter.get("learned", "0"), limiter["granted"]) == ("0", "1")


async def test_the_slots_of_a_conductor_are_divided_between_starts_and_polls(
    make_store: MakeStore,
) -> None:
    store = await make_store()
    await admit(store, *(f"d{n}" for n in range(20)))
    for claim in await claimed(store, 10):
        await run(store, claim, delay_seconds=0)
    calls = [claim.call for _ in range(10) for claim in await claimed(store, 1)]
    assert calls.count(Call.START) == 5, calls


async def test_a_full_lane_with_a_ceiling_keeps_no_conductor_busy(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(replace(GENEROUS, max_running=2))
    await admit(store, "d1", "d2", "d3")
    first, second = await claimed(store)
    await run(store, first)
    await throttle(store, second, concurrent=True)
    (second,) = await claimed(store, 1) or await _above_the_ceiling(store, redis)
    await run(store, second)
    assert await _above_the_ceiling(store, redis) == []
    _, wait_seconds = await store.claim(10)
    assert wait_seconds is not None
    assert wait_seconds > 1


async def _above_the_ceiling(store: ImportStore, redis: Any) -> list[Claim]:
    await redis.hset(f"imports:lane:{LANE}", "ceiling_try_at_ms", 0)  # the next attempt is due
    await redis.zadd("imports:lanes", {LANE: 0})
    return await claimed(store)


async def _probe(store: ImportStore, redis: Any) -> list[Claim]:
    """Pause the lane if necessary, and return what is claimed once a probe is due."""
    await recording.pause_lane(
        store, LANE, "no", probe=False, delay_seconds=60, delay_max_seconds=60
    )
    await redis.hset(f"imports:lane:{LANE}", "paused_until_ms", 0)
    await redis.zadd("imports:lanes", {LANE: 0})
    return await claimed(store)


async def test_a_probe_is_subject_to_the_limiter_and_max_running_like_any_call(
    make_store: MakeStore, redis: Any
) -> None:
    slow = await make_store(LaneLimits(start_rate=0.001, start_burst=1))
    await admit(slow, "d1", "d2")
    (claim,) = await claimed(slow)
    await recording.requeue(slow, claim)
    assert await _probe(slow, redis) == []
    full = await make_store(replace(GENEROUS, max_running=1))
    await asyncio.sleep(0.01)  # a new limit starts with the tokens that were left
    (probe,) = await _probe(full, redis)
    await run(full, probe)
    assert await _probe(full, redis) == []


async def test_a_probe_is_found_behind_many_that_may_not_start(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, *(f"d{n}" for n in range(250)), batchId="stopped")
    await BatchControl(redis, _config()).pause("stopped", "freeze")
    await admit(store, "dlast", priority="low")
    probes = [claim.item.id for _ in range(4) for claim in await _probe(store, redis)]
    assert probes[0] == "i-dlast"


async def test_too_many_jobs_delay_starts_until_one_ends_and_do_not_change_the_rate(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, *(f"d{n}" for n in range(6)))
    first, second, third = await claimed(store, 3)
    for claim in (first, second):
        await run(store, claim, delay_seconds=0)
    assert await throttle(store, third, concurrent=True) == "2 unfinished jobs at most"
    polls = await claimed(store)
    assert [claim.call for claim in polls] == [Call.POLL, Call.POLL]
    assert (await lane_of(redis)).ceiling == 2
    await end(store, polls[0])
    assert [claim.item.id for claim in await claimed(store)] == ["i-d2"]
    assert await claimed(store) == []
    assert float(await redis.hget(LIMITER, "mode") or 0) == 0, "the rate is unchanged"


async def test_a_ceiling_rises_in_doubling_steps_while_more_is_accepted(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, *(f"d{n}" for n in range(12)))
    (claim,) = await claimed(store, 1)
    await run(store, claim)
    (claim,) = await claimed(store, 1)
    await throttle(store, claim, concurrent=True)
    assert await claimed(store) == []
    for expected in (1, 2, 4):
        tried = await _above_the_ceiling(store, redis)
        assert len(tried) == expected
        for claim in tried:
            await run(store, claim)
    assert (await lane_of(redis)).ceiling == 8


async def known_well(store: ImportStore, redis: Any) -> None:
    """Give a lane a well-known rate and one running job."""
    await admit(store, *(f"d{n}" for n in range(12)))
    (claim,) = await claimed(store, 1)
    await run(store, claim, delay_seconds=0)
    await redis.hset(LIMITER, mapping={"steady": 100, "rate": 100, "mode": 1, "spread": 0.02})
    await redis.hset(LIMITER, mapping={"learned": 1, "span": 500, "swing": 0.02, "full": 0})


async def refuse_in_a_row(store: ImportStore, times: int) -> str:
    kept = ""
    for _ in range(times):
        (claim,) = [c for c in await _next(store) if c.call is Call.START] or await _next(store)
        kept = await throttle(store, claim)
    return kept


async def test_repeatedly_refused_starts_are_taken_for_too_many_jobs(
    make_store: MakeStore, redis: Any
) -> None:
    """The remote API gives no reason. A start that is accepted once a job has ended confirms it."""
    store = await make_store(LaneLimits(poll_rate=1000, poll_burst=100))
    await known_well(store, redis)
    (poll,) = await claimed(store, 1)
    assert poll.call is Call.POLL
    assert "1 unfinished jobs at most, apparently" in await refuse_in_a_row(store, 3)
    assert (await store.claim(5))[0] == []
    assert float(await redis.hget(LIMITER, "rate")) == pytest.approx(100)
    await end(store, poll)
    (claim,) = await _next(store)
    await run(store, claim)
    lane = await lane_of(redis)
    assert (lane.ceiling, lane.fields.get("ceiling_suspected")) == (1, None)


async def test_a_rate_that_fell_is_not_taken_for_too_many_jobs_for_long(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(LaneLimits(poll_rate=1000, poll_burst=100))
    await known_well(store, redis)
    (poll,) = await claimed(store, 1)
    await refuse_in_a_row(store, 3)
    await end(store, poll)
    (claim,) = await _next(store)
    await throttle(store, claim)
    lane = await lane_of(redis)
    assert lane.ceiling is None
    assert lane.start_budget.pace < 50


async def test_a_stranded_lane_is_found_and_woken(make_store: MakeStore, redis: Any) -> None:
    store = await make_store()
    await admit(store, "d1")
    assert await store.sweep() == []
    await redis.delete("imports:lanes", "imports:wake")
    assert await claimed(store) == []
    assert await store.sweep() == [LANE]
    assert await redis.exists("imports:wake")
    assert len(await claimed(store)) == 1


async def test_the_pages_of_a_list_are_calls_like_any_other(make_store: MakeStore) -> None:
    # One call in 50 seconds, so that a busy machine is granted none meanwhile.
    store = await make_store(LaneLimits(start_rate=100, poll_rate=0.02, poll_burst=3))
    await admit(store, "d1")
    await run(store, (await claimed(store))[0], delay_seconds=0)
    (poll,) = await claimed(store)
    waits = [await store.grant_more(poll) for _ in range(3)]
    assert waits[0] == 0
    assert 0 < waits[-1] <= 55
    await recording.poll_again(store, poll)
    _, wait_seconds = await store.claim(10)
    assert wait_seconds is not None
    assert 0 < wait_seconds <= 55


async def test_an_unreadable_record_stops_no_other_claim(make_store: MakeStore, redis: Any) -> None:
    store = await make_store()
    await admit(store, "d1", "d2")
    await redis.hset("imports:import:i-d1", SHORT["attempts"], "junk")
    await redis.hset("imports:import:i-d1", "conflicts", "junk")
    await redis.hset("imports:import:i-d1", SHORT["attempts"], "0")
    assert [claim.item.id for claim in await claimed(store)] == ["i-d2"]


async def test_no_lane_takes_all_the_slots_of_a_conductor(make_store: MakeStore) -> None:
    store = await make_store()
    await admit(store, *(f"d{n}" for n in range(40)))
    await admit(store, *(f"de{n}" for n in range(3)), account="other")
    in_flight: dict[str, int] = {}
    for _ in range(20):
        slots = 20 - sum(in_flight.values())
        for claim in (await store.claim(min(slots, 100), slots=slots, in_flight=in_flight))[0]:
            in_flight[claim.item.lane] = in_flight.get(claim.item.lane, 0) + 1
        await asyncio.sleep(0.01)
    assert in_flight["other/us-east-1"] == 3
    assert in_flight[LANE] <= 10
