"""Which import starts next: batches take turns, priorities keep their shares, lanes are
independent."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import members, recording
from tests.support.stores import MakeStore
from worker.domain.claims import Claim
from worker.domain.outcomes import Envelope, LaneLimits, ValidRequest
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore

LANE = "default/us-east-1"
UNLIMITED = LaneLimits(start_rate=10_000, start_burst=10_000, poll_rate=10_000, poll_burst=10_000)


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store(UNLIMITED)


class Batches:
    """Admits imports of batches, and claims them one by one."""

    def __init__(self, store: ImportStore) -> None:
        self._store = store
        self._admitted = 0

    async def admit(self, batch: str, count: int = 1, **more: Any) -> None:
        batch_id = {"batchId": batch} if batch else {}
        received = []
        for _ in range(count):
            self._admitted += 1
            name = f"d{self._admitted}"
            request = OPERATIONS.parse(members(name, **batch_id, **more))
            envelope = Envelope(import_id=f"{batch}-{name}", task_id=name)
            received.append(ValidRequest(envelope, request, "us-east-1"))
        await self._store.admit_all(received)

    async def claim(self) -> Claim | None:
        claims, _ = await self._store.claim(1)
        return claims[0] if claims else None

    async def served(self, count: int) -> list[str]:
        """Start and end imports one after the other; return their batches."""
        batches = []
        for _ in range(count):
            claim = await self.claim()
            assert claim is not None
            batches.append(claim.item.id.rpartition("-")[0])
            await recording.finish(
                self._store, claim, State.SUCCEEDED, error="", job_id="", operation="", status=""
            )
        return batches


async def test_a_small_batch_starts_every_other_time_behind_a_large_one(
    store: ImportStore,
) -> None:
    tenants = Batches(store)
    await tenants.admit("large", 300)
    assert Counter(await tenants.served(50)) == {"large": 50}
    await tenants.admit("small", 10)
    assert Counter(await tenants.served(21))["small"] == 10
    assert Counter(await tenants.served(50)) == {"large": 50}


async def test_imports_without_a_batch_share_turns_like_one_batch(store: ImportStore) -> None:
    tenants = Batches(store)
    await tenants.admit("large", 60)
    await tenants.admit("", 10)
    assert Counter(await tenants.served(21))[""] == 10


async def test_a_batch_starts_in_order_of_admission(store: ImportStore) -> None:
    tenants = Batches(store)
    await tenants.admit("one", 30)
    names = [claim.item.app_id for _ in range(30) if (claim := await tenants.claim())]
    assert names == [f"d{n}" for n in range(1, 31)]


async def test_each_priority_has_ten_times_the_share_of_the_next(store: ImportStore) -> None:
    tenants = Batches(store)
    for priority, count in (("low", 5), ("normal", 40), ("high", 300)):
        await tenants.admit(priority, count, priority=priority)
    shares = Counter(await tenants.served(222))
    assert shares == {"high": 200, "normal": 20, "low": 2}


async def test_a_priority_that_has_nothing_to_start_delays_no_other(
    store: ImportStore,
) -> None:
    tenants = Batches(store)
    await tenants.admit("low", 20, priority="low")
    assert Counter(await tenants.served(10)) == {"low": 10}
    await tenants.admit("high", 3, priority="high")
    assert await tenants.served(4) == ["high"] * 3 + ["low"]


async def test_an_import_that_is_given_back_keeps_its_place(store: ImportStore) -> None:
    tenants = Batches(store)
    await tenants.admit("a", 5)
    await tenants.admit("b", 5)
    first = await tenants.claim()
    assert first is not None
    await tenants.served(3)
    await recording.requeue(store, first)
    again = await tenants.claim()
    assert again is not None
    assert again.item.id == first.item.id


async def test_turns_leave_nothing_behind(store: ImportStore, redis: Any) -> None:
    tenants = Batches(store)
    for batch in ("a", "b", "c"):
        for priority in ("high", "low"):
            await tenants.admit(f"{batch}{priority}", 3, priority=priority)
    await tenants.served(18)
    assert await redis.keys("imports:flows:*") == []
    assert await redis.keys("imports:waiting:*") == []


async def test_every_lane_gets_its_turn_from_a_conductor_with_few_slots(
    store: ImportStore,
) -> None:
    for account in range(80):
        for n in range(4):
            request = OPERATIONS.parse(members(f"d{n}", account=f"a{account}"))
            envelope = Envelope(import_id=f"{account}-{n}", task_id="t")
            await store.admit(envelope, request, "us-east-1")
    served: Counter[str] = Counter()
    for _ in range(40):
        claims, _ = await store.claim(4)
        served.update(claim.item.lane for claim in claims)
    assert sum(served.values()) == 160
    assert set(served.values()) == {2}


sizes = st.lists(st.integers(1, 15), min_size=2, max_size=12)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=sizes, later=sizes, between=st.integers(0, 30))
async def test_batches_that_wait_together_are_served_equally(
    store: ImportStore, redis: Any, first: Sequence[int], later: Sequence[int], between: int
) -> None:
    """While two batches both wait, neither is served more than two imports ahead of the other."""
    await redis.flushdb()
    await store.configure(UNLIMITED, {}, by="the test")
    tenants = Batches(store)
    left = {f"first{n}": size for n, size in enumerate(first)}
    for batch, size in left.items():
        await tenants.admit(batch, size)
    order = await tenants.served(min(between, sum(left.values())))
    left = {batch: size - order.count(batch) for batch, size in left.items()}
    for n, size in enumerate(later):
        await tenants.admit(f"later{n}", size)
        left[f"later{n}"] = size
    waiting = {batch for batch, size in left.items() if size}
    served: Counter[str] = Counter()
    for batch in await tenants.served(sum(left.values())):
        served[batch] += 1
        left[batch] -= 1
        together = [served[other] for other in waiting if left[other]]
        assert not together or max(together) - min(together) <= 2
    assert not any(left.values())
