"""Which polls go first if a lane's limit permits fewer than are due, on a real store."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.support import members, recording
from tests.support.stores import MakeStore
from worker.domain.claims import Call
from worker.domain.outcomes import Envelope, LaneLimits, ValidRequest
from worker.domain.polling import BINS, EDGES
from worker.operations.registry import OPERATIONS
from worker.store.keys import FACTS, IMPORT, POLLS
from worker.store.records import SHORT
from worker.store.store import ImportStore

LANE = "default/us-east-1"
AT_60_S = " ".join("20" if 53 < begin < 64 else "0" for begin in EDGES)
"""A histogram of jobs that all end at an age of 54 to 64 seconds."""

Job = tuple[float, float, float]
"""The seconds since a job began, since its last poll, and since its next poll fell due."""

YOUNG, OVER, BETWEEN = (30, 10, 5), (100, 60, 1), (58, 10, 3)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store(limits(poll_burst=1))


def limits(poll_burst: float) -> LaneLimits:
    return LaneLimits(start_rate=10_000, start_burst=10_000, poll_rate=1, poll_burst=poll_burst)


async def run(store: ImportStore, redis: Any, jobs: Sequence[Job]) -> None:
    """Let the imports i0, i1, … have these jobs."""
    await store.admit_all(
        [
            ValidRequest(
                Envelope(import_id=f"i{n}", task_id=f"i{n}"),
                OPERATIONS.parse(members(f"d{n}")),
                "us-east-1",
            )
            for n in range(len(jobs))
        ]
    )
    claims, _ = await store.claim(len(jobs), slots=2 * len(jobs))
    assert [claim.call for claim in claims] == [Call.START] * len(jobs)
    for claim in claims:
        await recording.run(store, replace(claim, answered=True), job_id=f"job-{claim.item.id}")
    seconds, microseconds = await redis.time()
    now_ms = seconds * 1000 + microseconds / 1000
    for n, (age, polled, due) in enumerate(jobs):
        times = {"started_at_ms": age, "unfinished_at_ms": polled}
        fields = {SHORT[name]: int(now_ms - ago * 1000) for name, ago in times.items()}
        await redis.hset(f"{IMPORT.name}i{n}", mapping=fields)
        await redis.zadd(POLLS.name + LANE, {f"i{n}": now_ms - due * 1000})


async def polled(store: ImportStore) -> list[str]:
    claims, _ = await store.claim(10)
    assert {claim.call for claim in claims} == {Call.POLL}
    return [claim.item.id for claim in claims]


async def test_the_likeliest_to_have_ended_goes_first(store: ImportStore, redis: Any) -> None:
    await redis.hset(FACTS.name + LANE, "durations", AT_60_S)
    await run(store, redis, [YOUNG, OVER, BETWEEN])
    assert await polled(store) == ["i1"], "it has passed the age at which jobs end"


async def test_a_poll_waits_at_most_twice_as_long_as_in_order(
    store: ImportStore, redis: Any
) -> None:
    await redis.hset(FACTS.name + LANE, "durations", AT_60_S)
    await run(store, redis, [(30, 10, 7), OVER, BETWEEN])
    assert await polled(store) == ["i0"], "three polls at one a second take three seconds"


@pytest.mark.parametrize("durations", ["", "damaged", "0 " * (BINS - 1) + "1"])
async def test_polls_go_in_order_while_durations_are_not_known(
    store: ImportStore, redis: Any, durations: str
) -> None:
    await redis.hset(FACTS.name + LANE, "durations", durations)
    await run(store, redis, [YOUNG, OVER, BETWEEN])
    assert await polled(store) == ["i0"]


async def test_polls_go_in_order_if_the_limit_permits_all(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(limits(poll_burst=10))
    await redis.hset(FACTS.name + LANE, "durations", AT_60_S)
    await run(store, redis, [YOUNG, OVER, BETWEEN])
    assert await polled(store) == ["i0", "i2", "i1"]


async def test_a_job_of_unknown_age_goes_first(store: ImportStore, redis: Any) -> None:
    await redis.hset(FACTS.name + LANE, "durations", AT_60_S)
    await run(store, redis, [YOUNG, (50, 10, 3), BETWEEN])
    await redis.hset(f"{IMPORT.name}i1", "adopted", "1")
    assert await polled(store) == ["i1"]


async def test_all_of_many_due_polls_are_made_each_once(make_store: MakeStore, redis: Any) -> None:
    store = await make_store(replace(limits(poll_burst=30), poll_rate=0.001))
    await redis.hset(FACTS.name + LANE, "durations", AT_60_S)
    jobs = [(30.0, 10.0, 5.0 - n / 1000) for n in range(300)]
    jobs[::10] = [(100.0, 60.0, 2.0)] * 30
    await run(store, redis, jobs)
    claims, _ = await store.claim(100)
    found = [claim.item.id for claim in claims]
    assert len(found) == len(set(found)) == 30
    likely = {f"i{n}" for n in range(0, 300, 10)}
    assert len(likely & set(found)) >= 15, "of the 30 in a sample of 200 of 300"
