"""Group commit: each answer of a group has its own reply, and none of them is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from tests.support import members
from tests.support.stores import MakeStore
from worker.domain.answers import Job
from worker.domain.claims import Claim
from worker.domain.decisions import Decision, Run
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.connection import StoreUnavailableError
from worker.store.store import ImportStore

WAIT_SECONDS = 60


async def claimed(store: ImportStore, count: int) -> list[Claim]:
    """Admit imports, and claim their starts."""
    for n in range(count):
        request = OPERATIONS.parse(members(f"d{n}"))
        await store.admit(Envelope(import_id=f"i{n}", task_id=f"i{n}"), request, "us-east-1")
    claims, _ = await store.claim(count)
    assert len(claims) == count
    return [replace(claim, answered=True) for claim in claims]


def running(claim: Claim) -> Decision:
    return Run(Job(job_id=f"j-{claim.item.id}", status="CREATING"), 0)


def recording_of(store: ImportStore, claims: Iterable[Claim]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(store.record(claim, running(claim))) for claim in claims]


async def states(store: ImportStore, claims: Iterable[Claim]) -> list[State]:
    items = [await store.load(claim.item.id) for claim in claims]
    return [item.state for item in items if item]


async def runs(redis: Any) -> int:
    """Return how many times a script ran since `config_resetstat`."""
    stats = await redis.info("commandstats")
    evalsha = stats.get("cmdstat_evalsha", {"calls": 0, "failed_calls": 0})
    unknown = stats.get("cmdstat_script|load", {"calls": 0})  # the call is repeated
    return int(evalsha["calls"] - unknown["calls"])


@asynccontextmanager
async def paused(redis: Any) -> AsyncIterator[None]:
    """Let every script wait for the end of the context."""
    await redis.client_pause(WAIT_SECONDS * 1000, all=False)
    try:
        yield
    finally:
        await redis.client_unpause()


async def test_answers_that_arrive_while_a_script_runs_are_recorded_together_next(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    claims = await claimed(store, 61)
    await redis.config_resetstat()
    async with paused(redis):
        first = recording_of(store, claims[:1])
        await redis.ping()  # by its reply, the first script has been sent
        others = recording_of(store, claims[1:])
        await redis.ping()
    recorded = await asyncio.gather(*first, *others)
    assert all(each.is_current for each in recorded)
    assert await states(store, claims) == [State.RUNNING] * 61
    assert await runs(redis) == 3, "the first, then fifty, then the rest"


async def test_an_answer_that_cannot_be_recorded_or_is_late_harms_no_other(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    good, late, damaged = await claimed(store, 3)
    late = replace(late, lease="0")
    await redis.set(f"imports:history:{damaged.item.id}", "not a list")
    await redis.config_resetstat()
    tasks = recording_of(store, [damaged, late, good])
    failure, *answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert await runs(redis) == 1
    assert isinstance(failure, StoreUnavailableError)
    assert [getattr(answer, "is_current", None) for answer in answers] == [False, True]
    assert await states(store, [late, good]) == [State.STARTING, State.RUNNING]


async def test_if_no_answer_of_a_group_can_be_recorded_each_caller_learns_it(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    good, *damaged = await claimed(store, 3)
    for claim in damaged:
        await redis.set(f"imports:history:{claim.item.id}", "not a list")
    tasks = recording_of(store, damaged)
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert ["WRONGTYPE" in str(each) for each in failures] == [True, True]
    assert {type(each) for each in failures} == {StoreUnavailableError}
    assert (await store.record(good, running(good))).is_current, "later answers are recorded"


async def test_an_answer_is_recorded_even_if_its_caller_is_cancelled(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    claims = await claimed(store, 4)
    async with paused(redis):
        sent = recording_of(store, claims[:2])
        await redis.ping()
        waiting = recording_of(store, claims[2:])
        await redis.ping()
        for task in (sent[0], waiting[0]):
            task.cancel()
    results = await asyncio.gather(*sent, *waiting, return_exceptions=True)
    cancelled = [isinstance(each, asyncio.CancelledError) for each in results]
    assert cancelled == [True, False, True, False]
    assert await states(store, claims) == [State.RUNNING] * 4
