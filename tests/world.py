"""The world that the state machine is driven in: a real server, workers' calls, a remote side.

The real store, admission and engine are at work. A call has three moments that anything may come
between: it is claimed, it is made, its answer arrives. Time passes by moving the deadlines that the
store keeps, so nobody waits. What must come of each step is said by `tests/model.py`.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from tests.conftest import GENEROUS
from tests.model import OUTCOMES, POLICY, Mood, Nature, Register, RemoteSide, next_states
from worker.domain.answers import Answer
from worker.domain.claims import Call, Claim
from worker.domain.imports import Import
from worker.domain.outcomes import (
    Action,
    Admission,
    Cancellation,
    Ended,
    Entrance,
    Resolution,
    Verdict,
)
from worker.domain.requests import derive_import_id
from worker.domain.states import TERMINAL, State
from worker.engine.admit import Admitter
from worker.engine.advance import Advancer
from worker.engine.own_clock import OwnClock
from worker.store.batches import BatchControl
from worker.store.connection import connect
from worker.store.lanes import LaneControl
from worker.store.store import ImportStore, StoreConfig

LEASE_SECONDS: Final = 8.0
CONFIG: Final = StoreConfig(
    retention_seconds=600,
    events_max_length=100_000,
    lease_seconds=LEASE_SECONDS,
    settle_seconds=POLICY.settle_seconds,
)
PASS_TIME: Final = """
-- ARGV 1: milliseconds that pass at once
local past = -tonumber(ARGV[1])
local function move(pattern)
  for _, key in ipairs(redis.call('KEYS', pattern)) do
    for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, past, id)
    end
  end
end
move('imports:delayed:*') move('imports:polls:*') move('imports:late:*') move('imports:leases:*')
move('imports:unfinished') move('imports:releases') move('imports:lanes')
local function hurry(pattern, fields)
  for _, key in ipairs(redis.call('KEYS', pattern)) do
    for _, field in ipairs(fields) do
      local at = redis.call('HGET', key, field)
      if at then
        redis.call('HSET', key, field, string.format('%.17g', at + past))
      end
    end
  end
end
hurry('imports:import:*',
  { 'first_start_at_ms', 'last_start_at_ms', 'started_at_ms', 'changed_at_ms' })
hurry('imports:lane:*', { 'paused_until_ms', 'ceiling_try_at_ms', 'learning_from_ms' })
for _, key in ipairs(redis.call('KEYS', 'imports:limiter:*')) do
  redis.call('DEL', key) -- what limits do is not asked here
end
"""


class NoAnnouncer:
    """Tells nobody: what the store says is owed is asked for at the end."""

    async def waiting(self, entrances: Sequence[Entrance], targets: Sequence[str]) -> None:
        """Show nothing."""

    async def running(self, item: Import, job_id: str, status: str) -> None:
        """Show nothing."""

    async def ended(self, ended: Ended) -> None:
        """Publish nothing."""


class OneRegion:
    """Every account has the same region."""

    def region_of(self, _account: str) -> str:
        """Return it."""
        return "us-east-1"


class Twice:
    """A ledger whose reply gets lost: what changes an import is run again, as redis-py would."""

    CHANGES: Final = frozenset({"run", "finish", "requeue", "reschedule", "doubt", "note_late"})

    def __init__(self, store: ImportStore) -> None:
        self._store = store
        self.is_on = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not (self.is_on and name in self.CHANGES):
            return method

        async def twice(*args: Any, **kwargs: Any) -> Any:
            await method(*args, **kwargs)
            return await method(*args, **kwargs)

        return twice


class Errand:
    """A claim on its way, and the operation that its call goes to: claimed, made, answered."""

    def __init__(
        self, claim: Claim, store: ImportStore, remote: RemoteSide, clock: Callable[[], float]
    ) -> None:
        self.claim = claim
        self.answer: Answer | None = None
        self.lag = 0.0
        self._mood = Mood.TRUTH
        self._remote = remote
        self._clock = clock
        self._ledger = Twice(store)
        self._answering = asyncio.Event()
        self._called = asyncio.Event()
        self._advancer = Advancer(
            self,
            self._ledger,
            NoAnnouncer(),
            remote.nature.policy,
            LEASE_SECONDS,
            OwnClock(clock),
            lambda: 0.5,
            clock,
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def is_begun(self) -> bool:
        """Whether the worker has made the call, or refrained from it."""
        return self._task is not None

    async def begin(self, mood: Mood, lag: float) -> None:
        """Make the call; it takes effect, if any, and its answer stays on the way."""
        self._mood, self.lag = mood, lag
        self._task = asyncio.create_task(self._advancer.advance(self.claim))
        called = asyncio.create_task(self._called.wait())
        await asyncio.wait({self._task, called}, return_when=asyncio.FIRST_COMPLETED)
        called.cancel()

    async def deliver(self, *, twice: bool) -> None:
        """Let the answer arrive, and be recorded."""
        assert self._task is not None
        self._ledger.is_on = twice
        self._answering.set()
        await self._task

    async def crash(self) -> None:
        """Let the worker die where it stands."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def submit(self, item: Import, send_by: float) -> Answer:
        """Start the job."""
        assert self._clock() <= send_by, f"{item.id} is started by a worker that stood still"
        answer = self._remote.submit(target_of(item), item.id, self._mood, self.lag)
        return await self._travel(answer)

    async def status(self, item: Import) -> Answer:
        """Ask for the job."""
        return await self._travel(self._remote.poll(item.job_id, self._mood))

    async def find(self, item: Import, _another: Callable[[], Awaitable[None]]) -> Answer:
        """Ask for the target's jobs."""
        is_running = item.state is State.RUNNING
        listed = self._remote.list_jobs(target_of(item), self._mood, is_running=is_running)
        await self._travel(listed)
        if self.claim.call is Call.POLL:  # what counts is what it says of the import's own job
            own = tuple(job for job in listed.jobs if job.job_id == item.job_id)
            self.answer = replace(listed, jobs=own)
        return listed

    async def _travel(self, answer: Answer) -> Answer:
        self.answer = answer
        self._called.set()
        await self._answering.wait()
        return answer


def target_of(item: Import) -> str:
    return f"{item.lane}/{item.target}"


class Shelves:
    """All that the store holds, read at once."""

    def __init__(self, records: dict[str, dict[str, str]], zsets: dict[str, Any]) -> None:
        self.items = {id_: Import.from_fields(id_, record) for id_, record in records.items()}
        self.leases = {id_: record.get("lease", "") for id_, record in records.items()}
        self.records = records
        self.lanes = {lane for lane, _ in zsets.get("imports:lanes", ())}
        self.places: defaultdict[str, list[str]] = defaultdict(list)
        for key, entries in zsets.items():
            kind, _, name = key.removeprefix("imports:").partition(":")
            for import_id, _ in entries:
                if kind in {"waiting", "delayed", "parked", "held", "leases", "polls", "late"}:
                    self.places[import_id].append(f"{kind}:{name}")

    def kinds(self, import_id: str) -> list[str]:
        """Return the kinds of places in which an import stands."""
        return [place.partition(":")[0] for place in self.places[import_id]]


class World:
    """The server, its workers and the remote side, for one example."""

    def __init__(self, url: str) -> None:
        self._redis: Any = connect(url)
        self._url = url
        self.passed = 0.0
        self.store = ImportStore(self._redis, CONFIG)
        self.lanes = LaneControl(self._redis, CONFIG)
        self.batches = BatchControl(self._redis, CONFIG)
        self.admitter = Admitter(self.store, OneRegion(), NoAnnouncer())
        self.remote = RemoteSide(self.clock)
        self.register = Register()
        self.states: dict[str, State] = {}
        self.cancelled: set[str] = set()
        self.errands: list[Errand] = []
        self.events: list[dict[str, Any]] = []
        self._read_to = "-"

    async def open(self, nature: Nature) -> None:
        self.remote.nature = nature
        await self._redis.flushdb()
        await self.store.configure(GENEROUS, {}, by="the model")

    async def close(self) -> None:
        for errand in self.errands:
            await errand.crash()
        await self._redis.aclose()

    def clock(self) -> float:
        """Return a monotonic clock, in seconds, of the time that is said to have passed."""
        return time.monotonic() + self.passed

    async def pass_time(self, seconds: float) -> None:
        self.passed += seconds
        await self._redis.eval(PASS_TIME, 0, str(round(seconds * 1000)))

    async def calm(self) -> None:
        """Open paused lanes and forget ceilings, by hand: calls are what this is about."""
        for lane in await self._redis.smembers("imports:names"):
            await self.lanes.resume(lane)
            await self.lanes.reset(lane)

    async def look(self) -> Shelves:
        """Read everything."""
        keys = await self._redis.keys("imports:*")
        records = [key for key in keys if key.startswith("imports:import:")]
        names = ("waiting:", "delayed:", "parked:", "held:", "leases:", "polls:", "late:", "lanes")
        zsets = [key for key in keys if key.removeprefix("imports:").startswith(names)]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in records:
                pipeline.hgetall(key)
            for key in zsets:
                pipeline.zrange(key, 0, -1, withscores=True)
            replies = await pipeline.execute()
        found = {
            k.removeprefix("imports:import:"): r for k, r in zip(records, replies, strict=False)
        }
        return Shelves(found, dict(zip(zsets, replies[len(records) :], strict=True)))

    async def new_events(self) -> list[dict[str, Any]]:
        """Return the events since the last time."""
        entries: Any = await self._redis.xrange("imports:events", min=self._read_to)
        if entries:
            self._read_to = f"({entries[-1][0]}"
        events = [json.loads(fields["event"]) for _, fields in entries]
        self.events += events
        return events

    async def hashes(self, prefix: str) -> dict[str, dict[str, str]]:
        return {
            key.removeprefix(prefix): await self._redis.hgetall(key)
            for key in await self._redis.keys(f"{prefix}*")
        }

    # ---- what is received

    def note(self, admission: Admission, expected: tuple[Verdict, str]) -> None:
        """Hold a reception against the register; note what it makes of the import."""
        assert (admission.verdict, admission.import_id) == expected
        if admission.verdict is Verdict.ACCEPTED:
            self.states[admission.import_id] = State.WAITING
        if admission.verdict is Verdict.REJECTED:
            self.states[admission.import_id] = State.REJECTED

    async def admit_by_task(self, import_id: str, request: dict[str, Any]) -> None:
        entrance = Entrance(import_id=import_id, task_id=import_id, signature='{"kept": 1}')
        expected = self._receive(import_id, request)
        self.note(await self.admitter.admit(request, entrance), expected)

    async def admit_by_stream(self, import_id: str, request: dict[str, Any]) -> None:
        expected = self._receive(import_id, request)
        text = json.dumps({"importId": import_id, **request})
        (admission,) = await self.admitter.admit_entries([("0-1", text)])
        self._note_anonymous(admission, expected)

    async def admit_batch(self, batch_id: str, offset: int, requests: list[dict[str, Any]]) -> None:
        expected = [
            self._receive(derive_import_id(batch_id, offset + n), request)
            for n, request in enumerate(requests)
        ]
        admissions = await self.admitter.admit_batch(
            batch_id,
            requests,
            offset=offset,
            total=None,
            canary=1 if batch_id == "canaries" else None,
            stop_percent=None,
        )
        for admission, one in zip(admissions, expected, strict=True):
            self._note_anonymous(admission, one)

    def _note_anonymous(self, admission: Admission, expected: tuple[Verdict, str]) -> None:
        """Where an id stands for another request, this one is rejected under an id of its own."""
        if expected[0] is not Verdict.REUSED:
            self.note(admission, expected)
            return
        assert admission.import_id != expected[1], "the request has vanished behind another"
        assert admission.verdict in {Verdict.REJECTED, Verdict.KNOWN}
        self.states[admission.import_id] = State.REJECTED

    def _receive(self, import_id: str, request: dict[str, Any]) -> tuple[Verdict, str]:
        body = {name: value for name, value in request.items() if name != "batchId"}
        if "webClientId" in request:
            return self.register.receive(import_id, body, request.get("idempotencyKey", ""))
        verdict, known = self.register.receive(import_id, body)
        return (Verdict.REJECTED if verdict is Verdict.ACCEPTED else verdict), known

    async def claim(self, limit: int) -> int:
        """Claim; return how many. After a throttled call the limiter may want some milliseconds."""
        claims: list[Claim] = []
        for _ in range(20):
            claims, wait_seconds = await self.store.claim(limit)
            if claims or wait_seconds is None or wait_seconds > 0.25:
                break
            await asyncio.sleep(wait_seconds)
        for claim in claims:
            aged = replace(claim, taken_at=claim.taken_at + self.passed)
            self.errands.append(Errand(aged, self.store, self.remote, self.clock))
        for import_id, item in (await self.look()).items.items():
            if item.state is State.STARTING and self.states[import_id] is State.WAITING:
                self.states[import_id] = State.STARTING  # claimed, or to be asked about first
        return len(claims)

    async def begin(self, errand: Errand, mood: Mood, lag: float) -> None:
        """Make a call; where the worker was stalled too long, the claim is given back instead."""
        before = await self._record(errand)
        holds = before.get("lease") == errand.claim.lease
        await errand.begin(mood, lag)
        if errand.answer is None:
            self.errands.remove(errand)
            assert holds or await self._record(errand) == before, (
                "a late worker has changed something"
            )
            await self._note_recorded(errand, holds=holds)

    async def deliver(self, errand: Errand, *, twice: bool) -> None:
        """Let an answer arrive; only under a lease that still holds may it change anything."""
        self.errands.remove(errand)
        before = await self._record(errand)
        holds = before.get("lease") == errand.claim.lease
        await errand.deliver(twice=twice)
        assert holds or await self._record(errand) == before, "a late answer has changed something"
        await self._note_recorded(errand, holds=holds)

    async def crash(self, errand: Errand) -> None:
        """Let a worker die; its lease will run out."""
        self.errands.remove(errand)
        await errand.crash()

    async def cancel(self, import_id: str) -> None:
        """Cancel: at once, unless a call is being made or in doubt."""
        wish = await self.store.cancel(import_id, "no longer wanted")
        match self.states[import_id]:
            case State.STARTING:
                assert wish is Cancellation.ASKED
                self.cancelled.add(import_id)
            case State.WAITING | State.RUNNING:
                assert wish is Cancellation.CANCELLED
                self.states[import_id] = State.CANCELLED
            case _:
                assert wish is Cancellation.OVER

    async def settle_overdue(self) -> set[str]:
        """Take the tasks that are owed an end, and let each finish; return their imports."""
        found = await self.store.overdue(1000, LEASE_SECONDS)
        for ended in found:
            assert ended.item.state in TERMINAL
            for task_id in ended.tasks:
                await self.store.settle(ended.item.id, task_id)
        return {ended.item.id for ended in found}

    async def _record(self, errand: Errand) -> dict[str, str]:
        return dict(await self._redis.hgetall(f"imports:import:{errand.claim.item.id}"))

    async def _note_recorded(self, errand: Errand, *, holds: bool) -> None:
        if not holds:
            return
        claim, answer, import_id = errand.claim, errand.answer, errand.claim.item.id
        if answer:
            self.remote.note_recorded(claim, answer)
        age = claim.age_seconds + self.clock() - claim.taken_at
        allowed = next_states(claim, answer, age, cancelled=import_id in self.cancelled)
        item = await self.store.load(import_id)
        assert item is not None
        assert item.state in allowed, f"{import_id} is {item.state} after {claim.call}: {answer}"
        if item.undecided:
            why = self.remote.may_be_undecided(item)
            assert why, f"{import_id} waits for a person in vain: {item.undecided}"
        self.states[import_id] = item.state

    async def resolve_all(self) -> None:
        """Decide by hand what waits for it, as a person who knows the truth."""
        for item in (await self.look()).items.values():
            if item.undecided:
                await self._resolve(item)

    async def _resolve(self, item: Import) -> None:
        own = self.remote.owned_by(item.id)
        if item.job_id:
            status = self.remote.by_id(item.job_id).status
            action = Action.SUCCEED if status == "COMPLETED" else Action.FAIL
            resolution = await self.store.resolve(item.id, action, error="by hand")
            self.states[item.id] = OUTCOMES[status]
        elif own:
            resolution = await self.store.resolve(item.id, Action.ADOPT, job_id=own[0].job_id)
            self.states[item.id] = State.RUNNING
        else:
            resolution = await self.store.resolve(item.id, Action.START_AGAIN)
            self.states[item.id] = State.WAITING
            self.remote.unasked.discard(item.id)
            self.remote.doubted.discard(item.id)
            self.remote.first_called.pop(item.id, None)
        assert resolution is Resolution.RESOLVED
        if item.id in self.cancelled and self.states[item.id] not in TERMINAL:
            self.states[item.id] = State.CANCELLED
