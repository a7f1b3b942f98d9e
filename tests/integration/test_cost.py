"""What imports cost the store: numbers of scripts and of their commands, and bytes."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.support import members, recording
from tests.support.footprint import CELERY, footprints
from tests.support.stores import SEEN, MakeStore
from worker.domain.answers import Job
from worker.domain.claims import Claim
from worker.domain.decisions import Decision, End, PollAgain, Run
from worker.domain.outcomes import Envelope, LaneLimits
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore

LANE = "default/us-east-1"
RECORDS = "imports:import:*"
GROUP = 10
NOT_COUNTED = ("evalsha", "script|load", "info", "config|resetstat")
BUDGET = {"start": 21, "run": 15, "poll": 9, "poll_again": 9, "finish": 33}
"""The most commands that each step of an import may run, in groups of `GROUP`."""


BYTES = {"waiting": 1050, "running": 1400, "finished": 900}
"""The most bytes of an import. Celery's own result of a finished one is not included."""


async def admit(store: ImportStore, count: int) -> None:
    for n in range(count):
        request = OPERATIONS.parse(members(f"d{n}"))
        envelope = Envelope(import_id=f"i{n}", task_id=f"i{n}", batch_id="b")
        await store.admit(envelope, request, "us-east-1")


async def claimed(store: ImportStore, count: int) -> list[Claim]:
    claims, _ = await store.claim(count, slots=2 * count)
    assert len(claims) == count
    return [replace(claim, answered=True) for claim in claims]


def running(claim: Claim) -> Decision:
    return Run(Job(job_id=f"j-{claim.item.id}", status="CREATING"), 0)


async def record(store: ImportStore, claims: list[Claim], decide: Any) -> list[Any]:
    recording_all = (store.record(claim, decide(claim)) for claim in claims)
    return await asyncio.gather(*recording_all, return_exceptions=True)


async def counts(redis: Any) -> tuple[int, float]:
    """Return how many scripts ran since the last call, and their commands for each import."""
    stats = await redis.info("commandstats")
    await redis.config_resetstat()
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    inside = sum(number for name, number in calls.items() if name not in NOT_COUNTED)
    unknown = calls.get("script|load", 0)  # a script that the server does not know is called again
    return calls.get("evalsha", 0) - unknown, inside / GROUP


async def test_each_step_of_an_import_stays_within_its_budget_of_scripts_and_commands(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await recording.learn(store, LANE, SEEN)
    await admit(store, GROUP)
    await counts(redis)
    used = {}
    starts = await claimed(store, GROUP)
    used["start"] = await counts(redis)
    await record(store, starts, running)
    used["run"] = await counts(redis)
    polls = await claimed(store, GROUP)
    used["poll"] = await counts(redis)
    await record(store, polls, lambda _: PollAgain(Job(status="CREATING"), 0, stuck=False))
    used["poll_again"] = await counts(redis)
    polls = await claimed(store, GROUP)
    await counts(redis)
    await record(store, polls, lambda _: End(State.SUCCEEDED, "", Job(status="SUCCESS")))
    used["finish"] = await counts(redis)
    assert {step for step, (_, commands) in used.items() if commands > BUDGET[step]} == set()
    assert {step: scripts for step, (scripts, _) in used.items()} == dict.fromkeys(BUDGET, 1)


async def test_a_configured_rate_needs_far_fewer_claims_than_starts(make_store: MakeStore) -> None:
    store = await make_store(LaneLimits(start_rate=30, start_burst=10))
    await admit(store, 40)
    starts, wait_seconds = await store.claim(100)
    burst, claims, made = len(starts), 0, 0
    while made < 24:
        await asyncio.sleep(wait_seconds or 0)
        starts, wait_seconds = await store.claim(100)
        claims, made = claims + 1, made + len(starts)
    assert burst >= 5, "the burst is not held back"
    assert claims <= made / 2


async def test_polls_that_become_due_soon_after_each_other_are_claimed_together(
    make_store: MakeStore,
) -> None:
    store = await make_store()
    await admit(store, GROUP)
    delays = iter(range(GROUP))
    starts = await claimed(store, GROUP)
    await record(store, starts, lambda _: Run(Job(job_id="j"), 1 + next(delays) / 100))
    claims, polls, wait_seconds = 0, 0, 0.0
    while polls < GROUP:
        await asyncio.sleep(wait_seconds)
        found, wait = await store.claim(100)
        claims, polls, wait_seconds = claims + bool(found), polls + len(found), wait or 0.0
    assert claims <= GROUP / 2


async def test_an_end_wakes_a_lane_only_if_imports_wait_for_its_place(
    make_store: MakeStore, redis: Any
) -> None:
    for max_running, is_woken in ((None, False), (2, True)):
        await redis.flushdb()
        limits = LaneLimits(start_rate=0.01, start_burst=2, max_running=max_running)
        store = await make_store(limits)
        await admit(store, 4)
        first, _ = await claimed(store, 2)
        await redis.delete("imports:wake")
        await store.record(first, End(State.SUCCEEDED, "", Job(job_id="j", status="SUCCESS")))
        assert await redis.exists("imports:wake") == is_woken, max_running


@pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)
async def test_an_import_stays_within_its_budget_of_bytes(redis: Any, store_url: str) -> None:
    used = {}
    async for moment, footprint in footprints(redis, store_url):
        if moment == "finished":
            assert footprint.pop(CELERY) < 1000
        used[moment] = sum(footprint.values())
        encodings = {await redis.object("encoding", key) for key in await redis.keys(RECORDS)}
        assert encodings == {"listpack"}
    assert {moment for moment, size in used.items() if size > BYTES[moment]} == set(), used
