"""Properties of limits, turns and queues that hold in any order of events, tested with Hypothesis.

A failure prints the example and a line that repeats it. The examples are the same in every run; the
timing depends on the machine.
"""

import asyncio
import json
import time
from collections import Counter, defaultdict, deque
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from tests.support import assert_nothing_left_behind, members, recording
from tests.support.stores import GENEROUS, MakeStore
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.decisions import PauseLane
from worker.domain.outcomes import NO_RULE, Envelope, LaneLimits, StopRule
from worker.domain.recording import Observed
from worker.domain.requests import Priority
from worker.domain.states import TERMINAL, State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import BatchControl, LaneControl
from worker.store.store import ImportStore
from worker.store.views import ImportViews

LANE = "default/us-east-1"
LANES = (LANE, "other/us-east-1")
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)

drawn = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


async def admit(store: ImportStore, import_id: str, app: str, **more: Any) -> None:
    envelope = Envelope(import_id=import_id, task_id=import_id)
    await store.admit(envelope, OPERATIONS.parse(members(app, **more)), "us-east-1")


async def end(store: ImportStore, claim: Claim, state: State = State.SUCCEEDED) -> None:
    await recording.finish(store, claim, state, error="", job_id="", operation="", status="")


async def run(store: ImportStore, claim: Claim, delay_seconds: float = 0) -> None:
    await recording.run(
        store, claim, job_id="j", operation="", status="", delay_seconds=delay_seconds
    )


def known(rate: float, burst: int, *, shared: bool = False) -> LaneLimits:
    """Return limits that are the same for every class of calls."""
    return LaneLimits(
        start_rate=rate,
        start_burst=burst,
        poll_rate=rate,
        poll_burst=burst,
        shared_rate=rate,
        shared_burst=burst,
        shared=shared,
    )


class Bucket:
    """The remote API's bucket with its known limits: full at first, never empty when it is called.

    This holds exactly if each interval between two grants has at most `burst` grants, plus the rate
    times its length.
    """

    def __init__(self, limits: LaneLimits) -> None:
        self._limit = self._upper = (limits.start_rate or 0, limits.start_burst or 0)
        self._changing_until_ms = 0.0
        self._tokens = self._limit[1]
        self._at_ms = 0.0
        self._taken = 0

    def take(self, number: str, at_ms: str) -> None:
        """Take the token of a grant."""
        self._taken += 1
        assert int(number) == self._taken, "no number is granted twice or left out"
        self._flow(float(at_ms))
        self._tokens -= 1
        assert self._tokens > -1e-4, f"grant {number} exceeds the limit"

    def change(self, limits: LaneLimits, before_ms: float, after_ms: float) -> None:
        """Use other limits from some moment on; the bucket has at most its present tokens then.

        Nobody knows the moment: between the two times, the higher limit is the upper bound.
        """
        self._flow(before_ms)
        rate, burst = limits.start_rate or 0, limits.start_burst or 0
        self._upper = (max(rate, self._limit[0]), max(burst, self._limit[1]))
        self._limit, self._changing_until_ms = (rate, burst), after_ms

    def _flow(self, at_ms: float) -> None:
        if self._at_ms < self._changing_until_ms:
            self._flow_in(*self._upper, min(at_ms, self._changing_until_ms))
        if at_ms > self._changing_until_ms:
            self._flow_in(*self._limit, at_ms)

    def _flow_in(self, rate: float, burst: float, at_ms: float) -> None:
        gained = max(0.0, at_ms - self._at_ms) / 1000 * rate
        self._tokens = min(self._tokens + gained, burst)
        self._at_ms = max(at_ms, self._at_ms)


class Race:
    """Stores that race for the calls of one lane, and the buckets that they may not overdraw."""

    def __init__(self, stores: list[ImportStore], redis: Any, limits: LaneLimits) -> None:
        self._stores = stores
        self._redis = redis
        self._control = LaneControl(redis, CONFIG)
        self._configured = limits
        self._buckets = {name: Bucket(limits) for name in ("start", "poll", "shared")}
        self._claims: list[Claim] = []

    async def claim(self) -> None:
        """Request two more pages of lists, then let every store claim twice at once."""
        for claim in self._claims[-2:]:
            await self._page(claim)
        await self._take(await self._race())

    async def change(self, limits: LaneLimits | None) -> None:
        """Change rate and burst, or reset them, as an operator; a conductor then applies them."""
        before = await self._now()
        if limits:
            await self._control.set_limits(LANE, replace(limits, shared=None), by="the test")
        else:
            await self._control.reset(LANE)
        claims = await self._race()
        after = await self._now()
        for bucket in self._buckets.values():
            bucket.change(limits or self._configured, before, after)
        await self._take(claims)

    async def _race(self) -> list[Claim]:
        replies = await asyncio.gather(*(store.claim(100) for store in self._stores * 2))
        return [claim for claims, _ in replies for claim in claims]

    async def _take(self, claims: list[Claim]) -> None:
        grants = [claim.grant.split() for claim in claims]
        for name, number, at_ms, *_ in sorted(grants, key=lambda grant: int(grant[1])):
            self._buckets[name].take(number, at_ms)
        await asyncio.gather(*(self._answer(n, claim) for n, claim in enumerate(claims)))
        self._claims = claims

    async def _page(self, claim: Claim) -> None:
        if await self._stores[0].grant_more(claim) == 0:
            name = claim.grant.split()[0]
            limiter = f"imports:limiter:{LANE}:{name}"
            self._buckets[name].take(*await self._redis.hmget(limiter, "granted", "filled_at"))

    async def _answer(self, position: int, claim: Claim) -> None:
        store, claim = self._stores[0], replace(claim, answered=True)
        if claim.call is Call.START and position % 2:
            await run(store, claim)
        else:
            await recording.requeue(store, claim)

    async def _now(self) -> float:
        seconds, microseconds = await self._redis.time()
        return float(seconds * 1000 + microseconds / 1000)


limits_known = st.builds(
    known,
    rate=st.integers(-13, 30).map(lambda tenths: 10 ** (tenths / 10)),
    burst=st.integers(1, 50),
    shared=st.booleans(),
)
PAUSES_MS = st.integers(0, 25)


@settings(drawn, max_examples=30)
@given(
    limits=limits_known,
    steps=st.lists(
        st.one_of(PAUSES_MS, PAUSES_MS, limits_known, st.none()), min_size=2, max_size=12
    ),
)
async def test_never_more_calls_than_the_bucket_holds(
    make_store: MakeStore,
    redis: Any,
    limits: LaneLimits,
    steps: list[int | LaneLimits | None],
) -> None:
    """A step is a pause in milliseconds followed by a race, other limits, or (None) a reset."""
    await redis.flushdb()
    stores = [await make_store(limits) for _ in range(3)]
    for n in range(60):
        await admit(stores[0], f"i{n}", f"d{n}")
    race = Race(stores, redis, limits)
    for step in (0, *steps):
        if isinstance(step, int):
            await asyncio.sleep(step / 1000)
            await race.claim()
        else:
            await race.change(step)


async def test_a_lowered_limit_applies_at_once(make_store: MakeStore, redis: Any) -> None:
    """This holds even while no conductor looks at the lane."""
    store = await make_store(known(rate=50, burst=30))
    for n in range(60):
        await admit(store, f"i{n}", f"d{n}")
    began = time.monotonic()
    await store.claim(100)
    await LaneControl(redis, CONFIG).set_limits(LANE, known(rate=0.001, burst=30), by="the test")
    at_most = 1 + 50 * (time.monotonic() - began)
    await asyncio.sleep(0.2)
    assert len((await store.claim(100))[0]) <= at_most


@settings(drawn, max_examples=8)
@given(tokens=st.integers(1, 50), limits=st.lists(st.integers(1, 60), min_size=100, max_size=100))
async def test_of_a_hundred_racing_claimers_as_many_win_as_there_are_tokens(
    make_store: MakeStore, redis: Any, tokens: int, limits: list[int]
) -> None:
    await redis.flushdb()
    stores = [await make_store(known(rate=0.001, burst=tokens)) for _ in range(4)]
    for n in range(60):
        await admit(stores[0], f"i{n}", f"d{n}")
    # Each concurrent call needs its own connection of the pool.
    race = (stores[n % 4].claim(limit) for n, limit in enumerate(limits))
    claims = [claim for claims, _ in await asyncio.gather(*race) for claim in claims]
    assert len(claims) == len({claim.item.id for claim in claims}) == tokens
    assert await redis.zcard(f"imports:leases:{LANE}") == tokens


WEIGHTS = {Priority.HIGH: 100, Priority.NORMAL: 10, Priority.LOW: 1}


class TurnChecker:
    """Observes starts of imports, and fails if one has waited for longer than its turn takes.

    Of `batches` that wait together in one priority, each has its n-th start within n rounds plus
    the round under way when it came, and its starts are at most two rounds apart. A priority has
    its n-th start before the others have had more than their shares of n, plus one each.
    """

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._latest: defaultdict[tuple[Priority, int], deque[int]] = defaultdict(deque)
        self._started: Counter[Priority] = Counter()
        self._since: dict[Priority, Counter[Priority]] = {}

    def came(self, priority: Priority, batch: int) -> None:
        """Record that an import waits from now on."""
        waiting = self._latest[priority, batch]
        rounds = len(waiting) + 2
        waiting.append(self._started[priority] + rounds * self._batches)
        self._since.setdefault(priority, self._started.copy())

    def starts(self, priority: Priority, batch: int) -> None:
        """Record the start of the batch's first waiting import."""
        self._started[priority] += 1
        waiting = self._latest[priority, batch]
        assert self._started[priority] <= waiting.popleft(), f"{batch} waits for other batches"
        if waiting:
            waiting[0] = min(waiting[0], self._started[priority] + 2 * self._batches)
        if not any(self._latest[priority, other] for other in range(self._batches)):
            del self._since[priority]
        for earlier, since in self._since.items():
            had = self._started - since
            for other in set(Priority) - {earlier}:
                share = (had[earlier] + 1) * WEIGHTS[other] / WEIGHTS[earlier]
                assert had[other] <= share + 1, f"{earlier} waits for {other}"


arrivals = st.tuples(
    st.integers(0, 12), st.sampled_from(Priority), st.integers(0, 2), st.integers(1, 40)
)


@settings(drawn, max_examples=20)
@given(arrivals=st.lists(arrivals, min_size=4, max_size=10), at_once=st.integers(1, 8))
async def test_no_import_waits_longer_than_its_turn_takes(
    make_store: MakeStore,
    redis: Any,
    arrivals: list[tuple[int, Priority, int, int]],
    at_once: int,
) -> None:
    """An arrival is the number of claims before it, its priority, its batch and its size."""
    await redis.flushdb()
    store = await make_store(known(rate=10_000, burst=10_000))
    checker = TurnChecker(batches=3)
    waiting = 0

    async def claim() -> int:
        claims = (await store.claim(at_once))[0]
        for claim in claims:
            checker.starts(Priority(claim.item.priority), int(claim.item.batch_id))
        return len(claims)

    for arrival, (claims_before, priority, batch, size) in enumerate(arrivals):
        for _ in range(claims_before if waiting else 0):
            waiting -= await claim()
        for n in range(size * (4 if priority is Priority.HIGH else 1)):
            app, waiting = f"d{arrival}x{n}", waiting + 1
            await admit(store, app, app, priority=priority, batchId=str(batch))
            checker.came(priority, batch)
    while waiting:
        started = await claim()
        assert started, f"{waiting} imports wait, and none of them starts"
        waiting -= started


RULES = {"plain": NO_RULE, "canaries": StopRule(canary=2), "strict": StopRule(stop_percent=0)}
BATCHES = tuple(RULES)
LIMITS = (
    LaneLimits(start_rate=100, start_burst=1),
    LaneLimits(start_rate=0.01, start_burst=1),
    LaneLimits(max_running=1),
    LaneLimits(shared=True, shared_rate=50, shared_burst=2),
)
CALLS = ("start", "poll", "shared")
DAMAGES = ({"tokens": "nan"}, {"pace": ""}, {"rate": "-1"}, {"granted": "inf"}, {"span": "0"})


class RandomOperations:
    """What workers, producers and operators may do; each method is an operation of that name.

    `rng` chooses the details. A worker that claims through `crashing` dies soon: its answer comes
    late, or never.
    """

    def __init__(self, store: ImportStore, crashing: ImportStore, redis: Any) -> None:
        self._store, self._crashing, self._redis = store, crashing, redis
        self._lanes = LaneControl(redis, CONFIG)
        self._batches = BatchControl(redis, CONFIG)
        self._claims: list[Claim] = []
        self._dead: set[str] = set()
        self._limited: set[str] = set()
        self.admitted: list[str] = []

    async def admit(self, rng: Random) -> None:
        self.admitted.append(f"i{len(self.admitted)}")
        account, batch = rng.choice(("default", "default", "other")), rng.choice(("", *BATCHES))
        more = {"batchId": batch} if batch else {}
        more["priority"] = rng.choice(tuple(Priority))
        app = f"d{rng.randrange(4)}"
        await admit(self._store, self.admitted[-1], app, account=account, **more)

    async def claim(self, rng: Random) -> None:
        race = (self._store.claim(rng.randint(1, 4)) for _ in range(2))
        for claims, _ in await asyncio.gather(*race):
            self._claims += claims

    async def die(self, rng: Random) -> None:
        claims, _ = await self._crashing.claim(rng.randint(1, 4))
        self._claims += claims
        self._dead.update(claim.lease for claim in claims)

    async def wait(self, rng: Random) -> None:
        await asyncio.sleep(rng.choice((0.005, 0.03)))

    async def run(self, rng: Random) -> None:
        await run(self._store, self._claim(rng), self._delay(rng))

    async def requeue(self, rng: Random) -> None:
        await recording.requeue(self._store, self._claim(rng))

    async def retry(self, rng: Random) -> None:
        delay = self._delay(rng)
        is_conflict = rng.random() < 0.5
        again = recording.wait_behind if is_conflict else recording.retry
        await again(self._store, self._claim(rng), delay_seconds=delay, error="no")

    async def doubt(self, rng: Random) -> None:
        claim, delay, in_outage = self._claim(rng), self._delay(rng), rng.random() < 0.5
        doubt = Doubt.GONE if claim.call is Call.POLL else rng.choice(tuple(Doubt)[:3])
        await recording.doubt(
            self._store, claim, doubt, error="HTTP 504", delay_seconds=delay, in_outage=in_outage
        )

    async def throttle(self, rng: Random) -> None:
        claim = self._claim(rng)
        self._limited.add(claim.item.lane)
        await recording.throttle(
            self._store,
            claim,
            retry_after_seconds=self._delay(rng),
            limit_type="",
            concurrent=rng.random() < 0.3,
        )

    async def probe(self, rng: Random) -> None:
        await recording.resume_lane(self._store, self._claim(rng).item.lane)

    async def pause(self, rng: Random) -> None:
        claim = self._claim(rng)
        refusal = PauseLane("401", 0.02 if claim.probe else 0)
        await self._store.record(
            claim, refusal, Observed(probe_seconds=0.005, probe_max_seconds=0.02)
        )

    async def end(self, rng: Random) -> None:
        await end(self._store, self._claim(rng), rng.choice(sorted(TERMINAL)))

    async def pause_by_operator(self, rng: Random) -> None:
        if rng.random() < 0.5:
            await self._lanes.pause(rng.choice(LANES), "freeze")
        else:
            await self._batches.pause(rng.choice(BATCHES), "freeze")

    async def resume(self, rng: Random) -> None:
        if rng.random() < 0.5:
            await self._lanes.resume(rng.choice(LANES))
        else:
            await self._batches.resume(rng.choice(BATCHES))

    async def limit(self, rng: Random) -> None:
        lane, limits = rng.choice(LANES), rng.choice(LIMITS)
        self._limited.update(LANES)
        if rng.random() < 0.5:
            await self._lanes.set_limits(lane, limits, by="the test")
        else:
            others = rng.choice((*LIMITS, LaneLimits()))
            await self._store.configure(others, {lane: limits}, by="the test")

    async def reset(self, rng: Random) -> None:
        await self._lanes.reset(rng.choice(LANES))

    async def damage(self, rng: Random) -> None:
        limiter = f"imports:limiter:{rng.choice(LANES)}:{rng.choice(CALLS)}"
        if damage := rng.choice((None, *DAMAGES)):
            await self._redis.hset(limiter, mapping=damage)
        else:
            await self._redis.delete(limiter)

    async def lose_lanes(self, _: Random) -> None:
        await self._redis.delete("imports:lanes")
        await self._store.sweep()

    async def perform(self, name: str, seed: int) -> None:
        if self._claims or name not in ANSWERS:
            await getattr(self, name)(Random(seed))

    async def finish_everything(self) -> None:
        """Answer calls in progress, claim and end what is due, then resume and finish what is
        paused.

        Lanes without limits are left alone, because a change would wake them.
        """
        assert await self._store.sweep() == [], "no lane with work was forgotten"
        for claim in self._claims:
            if claim.lease not in self._dead:
                await end(self._store, claim)
        if self._limited:
            await self._store.configure(GENEROUS, {}, by="the test")
        for lane in self._limited:
            await self._lanes.reset(lane)
        await self._work()
        for lane in LANES:
            await self._lanes.resume(lane)
        await self._work()  # batches may pause only now
        for batch in BATCHES:
            counts = await ImportViews(self._redis).batch(batch)
            if counts and counts.is_paused:
                await self._batches.resume(batch)
        await self._work()
        await self._follow_late_jobs()

    async def _follow_late_jobs(self) -> None:
        """Let jobs of cancelled and timed-out imports end: their polls are due a lease later."""
        for lane in LANES:
            if late := await self._redis.zrange(f"imports:late:{lane}", 0, -1):
                await self._redis.zadd(f"imports:late:{lane}", dict.fromkeys(late, 0))
                await self._redis.zadd("imports:lanes", {lane: 0})
            while await self._redis.exists(f"imports:late:{lane}"):
                claims, wait_seconds = await self._store.claim(100)
                for claim in claims:
                    await recording.note_late(
                        self._store, claim, outcome=State.SUCCEEDED, status="COMPLETED", error=""
                    )
                await asyncio.sleep(0 if claims else wait_seconds or 0)

    async def _work(self) -> None:
        claims, wait_seconds = await self._store.claim(100)
        while claims or (wait_seconds is not None and wait_seconds < 1):
            for claim in claims:
                await end(self._store, claim)
            await asyncio.sleep(0 if claims else wait_seconds or 0)
            claims, wait_seconds = await self._store.claim(100)

    def _claim(self, rng: Random) -> Claim:
        claim = rng.choice(self._claims[-6:])
        return replace(claim, answered=rng.random() < 0.7)

    def _delay(self, rng: Random) -> float:
        return rng.choice((0, 0, 0.005, 0.02))


ANSWERS = ("run", "requeue", "retry", "doubt", "throttle", "pause", "probe", "end")
OTHERS = ("die", "wait", "pause_by_operator", "resume", "limit", "reset", "damage", "lose_lanes")
# Few kinds at a time: where everything happens, one thing makes good what another has spoiled.
operations = st.sets(st.sampled_from(ANSWERS + OTHERS), min_size=2, max_size=8).flatmap(
    lambda names: st.lists(
        st.tuples(
            st.sampled_from(("admit", "admit", "claim", "claim", *sorted(names))),
            st.integers(0, 999),
        ),
        min_size=15,
        max_size=60,
    )
)


@settings(drawn, max_examples=100)
@given(operations=operations)
async def test_every_import_ends_once_and_nothing_is_left_behind(
    make_store: MakeStore, redis: Any, store_url: str, operations: list[tuple[str, int]]
) -> None:
    await redis.flushdb()
    operator = RandomOperations(await make_store(), await make_store(lease_seconds=0.02), redis)
    store = await make_store()
    for batch, rule in RULES.items():
        await store.announce_batch(batch, 1, rule)
    for name, seed in operations:
        await operator.perform(name, seed)
    async with asyncio.timeout(20):
        await operator.finish_everything()

    events = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    ends = Counter(e["data"]["importId"] for e in events if e["data"].get("outcome"))
    assert ends == Counter(operator.admitted), "each import ends once"
    for import_id in operator.admitted:
        item = await store.load(import_id)
        assert item is not None
        assert item.is_terminal
        await store.note_task_done(import_id, import_id)
    await redis.zadd("imports:lanes", dict.fromkeys(LANES, 0))  # when the leases would end
    await store.claim(1)
    await store.wait_for_hint(0.01)
    with Redis.from_url(store_url, decode_responses=True) as client:
        assert_nothing_left_behind(client)
