"""The environment of the state machine: a real server, calls of workers, and a remote API.

The store, admission and engine are the real ones. A call has three steps, and anything may happen
between them: it is claimed, it is made, and its answer arrives. Time passes by changing the
deadlines in the store, so that no test waits. `tests/model.py` defines what must come of each step.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from tests.model import (
    MAX_PER_HOUR,
    OUTCOMES,
    POLICY,
    ApiFacts,
    BatchSchedule,
    Behavior,
    Register,
    RemoteSide,
    next_states,
)
from tests.support.contract import problems_of_event
from tests.support.stores import GENEROUS
from worker.domain.accounts import Standing
from worker.domain.answers import Answer
from worker.domain.batches import BatchMessage
from worker.domain.claims import Call, Claim
from worker.domain.imports import Import
from worker.domain.outcomes import (
    Action,
    Admission,
    Cancellation,
    Ended,
    Envelope,
    Resolution,
    Verdict,
)
from worker.domain.requests import derive_import_id
from worker.domain.schedules import Schedule
from worker.domain.states import TERMINAL, State
from worker.engine.admit import Admitter
from worker.engine.advance import Advancer
from worker.engine.checking import Parcel
from worker.engine.own_clock import OwnClock
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.connection import connect
from worker.store.control import BatchControl, LaneControl
from worker.store.records import import_of, record_of
from worker.store.store import ImportStore

LEASE_SECONDS: Final = 8.0
CONFIG: Final = StoreConfig(
    retention_seconds=600,
    events_max_length=100_000,
    lease_seconds=LEASE_SECONDS,
    settle_seconds=POLICY.settle_seconds,
)
LATER_SECONDS: Final = 20.0
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
move('imports:unfinished') move('imports:releases') move('imports:lanes') move('imports:openings')
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
  { 'F', 'L', 'S', 'C' }) -- when the import was started, its job ran, and its status changed
hurry('imports:batch:*', { 'start_at_ms', 'paced_until_ms' })
hurry('imports:lane:*', { 'paused_until_ms', 'ceiling_try_at_ms', 'learning_from_ms' })
for _, key in ipairs(redis.call('KEYS', 'imports:limiter:*')) do
  redis.call('DEL', key) -- limits are not the subject here
end
"""


class NoAnnouncer:
    """Announces nothing: what is still to be announced is checked at the end."""

    async def waiting(self, envelopes: Sequence[Envelope], targets: Sequence[str]) -> None:
        """Show nothing."""

    def accepted(self, envelope: Envelope, target: str, lane: str, batch_id: str) -> None:
        """Show nothing."""

    async def running(self, item: Import, job_id: str, status: str) -> bool:  # noqa: ARG002 - the signature of the port
        """Show nothing."""
        return False

    async def ended(self, ended: Ended) -> None:
        """Finish nothing."""

    async def settled(self) -> None:
        """Wait for nothing."""

    async def repair(self, item: Import) -> None:
        """Show nothing."""


class SingleRegion:
    """Every account has the same region."""

    def region_of(self, _account: str) -> str:
        """Return the region."""
        return "us-east-1"


class AnyAccount:
    """Every account is known."""

    def standing_of(self, _account: str) -> Standing:
        """Return that it is accepted."""
        return Standing.ACCEPTED


class RepeatingStore:
    """A store whose reply is lost: a change is repeated, as redis-py does."""

    CHANGES: Final = frozenset({"record"})

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


class PendingCall:
    """A claim in progress, and the operation that makes its call: claimed, made, answered."""

    def __init__(
        self, claim: Claim, store: ImportStore, remote: RemoteSide, clock: Callable[[], float]
    ) -> None:
        self.claim = claim
        self.answer: Answer | None = None
        self.lag = 0.0
        self._behavior = Behavior.TRUTH
        self._remote = remote
        self._clock = clock
        self._claims = RepeatingStore(store)
        self._answering = asyncio.Event()
        self._called = asyncio.Event()
        self._advancer = Advancer(
            self,
            self._claims,
            NoAnnouncer(),
            remote.facts.policy,
            LEASE_SECONDS,
            OwnClock(clock),
            lambda: 0.5,
            clock,
        )
        self._task: asyncio.Task[float | None] | None = None

    @property
    def is_begun(self) -> bool:
        """Whether the worker has made the call, or decided not to."""
        return self._task is not None

    async def begin(self, behavior: Behavior, lag: float) -> None:
        """Make the call: it takes effect, and its answer stays in transit."""
        self._behavior, self.lag = behavior, lag
        self._task = asyncio.create_task(self._advancer.advance(self.claim))
        called = asyncio.create_task(self._called.wait())
        await asyncio.wait({self._task, called}, return_when=asyncio.FIRST_COMPLETED)
        called.cancel()

    async def deliver(self, *, twice: bool) -> None:
        """Deliver the answer, and let it be recorded."""
        assert self._task is not None
        self._claims.is_on = twice
        self._answering.set()
        await self._task

    async def crash(self) -> None:
        """Kill the worker."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def verify(self, item: Import) -> Answer:
        """Look at what was imported, which the model's policy does not ask for."""
        raise AssertionError(item)

    async def submit(self, item: Import, send_by: float) -> Answer:
        """Start the job."""
        assert self._clock() <= send_by, (
            f"{item.id} is started by a worker that was frozen too long"
        )
        answer = self._remote.submit(target_of(item), item.id, self._behavior, self.lag)
        return await self._travel(answer)

    async def status(self, item: Import) -> Answer:
        """Poll the job."""
        return await self._travel(self._remote.poll(item.job_id, self._behavior))

    async def find(self, item: Import, _another: Callable[[], Awaitable[None]]) -> Answer:
        """List the target's jobs."""
        is_running = item.state is State.RUNNING
        listed = self._remote.list_jobs(target_of(item), self._behavior, is_running=is_running)
        await self._travel(listed)
        if self.claim.call is Call.POLL:  # only the import's own job matters
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


@lru_cache(maxsize=1000)
def _item(import_id: str, *fields: tuple[str, str]) -> Import:
    """Decode a record; most are the same in one snapshot after the other."""
    return import_of(import_id, dict(fields))


class StoreSnapshot:
    """Everything that the store holds, read at once."""

    def __init__(self, records: dict[str, dict[str, str]], zsets: dict[str, Any]) -> None:
        self.items = {id_: _item(id_, *record.items()) for id_, record in records.items()}
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
        """Return the kinds of queues that an import is in."""
        return [place.partition(":")[0] for place in self.places[import_id]]


class World:
    """The server, its workers and the remote API, for one example."""

    def __init__(self, url: str) -> None:
        self._redis: Any = connect(url)
        self._url = url
        self.passed = 0.0
        self.store = ImportStore(self._redis, CONFIG)
        self.lanes = LaneControl(self._redis, CONFIG)
        self.batches = BatchControl(self._redis, CONFIG)
        self.admitter = Admitter(
            OPERATIONS, self.store, AnyAccount(), SingleRegion(), NoAnnouncer()
        )
        self.remote = RemoteSide(self.clock)
        self.register = Register()
        self.schedules: defaultdict[str, BatchSchedule] = defaultdict(BatchSchedule)
        self.states: dict[str, State] = {}
        self.cancelled: set[str] = set()
        self.calls: list[PendingCall] = []
        self.events: list[dict[str, Any]] = []
        self._read_to = "-"

    async def open(self, facts: ApiFacts) -> None:
        self.remote.facts = facts
        await self._redis.flushdb()
        await self.store.configure(GENEROUS, {}, by="the model")

    async def close(self) -> None:
        for call in self.calls:
            await call.crash()
        await self._redis.aclose()

    def clock(self) -> float:
        """Return a monotonic clock in seconds, including the time that was passed artificially."""
        return time.monotonic() + self.passed

    async def pass_time(self, seconds: float) -> None:
        self.passed += seconds
        await self._redis.eval(PASS_TIME, 0, str(round(seconds * 1000)))

    async def open_lanes(self) -> None:
        """Resume paused lanes and forget ceilings, as an operator would; they are not the subject
        here."""
        for lane in await self._redis.smembers("imports:names"):
            await self.lanes.resume(lane)
            await self.lanes.reset(lane)

    async def read_store(self) -> StoreSnapshot:
        """Read everything in the store."""
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
        return StoreSnapshot(found, dict(zip(zsets, replies[len(records) :], strict=True)))

    async def new_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call."""
        entries: Any = await self._redis.xrange("imports:events", min=self._read_to)
        if entries:
            self._read_to = f"({entries[-1][0]}"
        events = [json.loads(fields["event"]) for _, fields in entries]
        assert [problem for event in events for problem in problems_of_event(event)] == []
        self.events += events
        return events

    async def hashes(self, prefix: str) -> dict[str, dict[str, str]]:
        keys = await self._redis.keys(f"{prefix}*")
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            replies = await pipeline.execute()
        return dict(zip((key.removeprefix(prefix) for key in keys), replies, strict=True))

    # ---- admission

    def note(self, admission: Admission, expected: tuple[Verdict, str]) -> None:
        """Check an admission against the register, and record the import's state."""
        assert (admission.verdict, admission.import_id) == expected
        if admission.verdict is Verdict.ACCEPTED:
            self.states[admission.import_id] = State.WAITING
        if admission.verdict is Verdict.REJECTED:
            self.states[admission.import_id] = State.REJECTED

    async def admit_by_task(self, import_id: str, request: dict[str, Any]) -> None:
        envelope = Envelope(import_id=import_id, task_id=import_id, signature='{"kept": 1}')
        expected = self._receive(import_id, request)
        (admission,) = await self.admitter.admit_tasks([Parcel(request, envelope)])
        self.note(admission, expected)

    async def admit_by_stream(self, import_id: str, request: dict[str, Any]) -> None:
        expected = self._receive(import_id, request)
        text = json.dumps({"importId": import_id, **request})
        (admission,) = await self.admitter.admit_entries([("0-1", text, None)])
        self._note_anonymous(admission, expected)

    async def admit_batch(self, batch_id: str, offset: int, requests: list[dict[str, Any]]) -> None:
        expected = [
            self._receive(derive_import_id(batch_id, offset + n), request)
            for n, request in enumerate(requests)
        ]
        admissions = await self.admitter.admit_batch(
            BatchMessage(
                batchId=batch_id,
                requests=requests,
                offset=offset,
                canary=1 if batch_id == "canaries" else None,
            )
        )
        for admission, one in zip(admissions, expected, strict=True):
            self._note_anonymous(admission, one)

    def _note_anonymous(self, admission: Admission, expected: tuple[Verdict, str]) -> None:
        """Check an admission without a task: if the id is taken, the request gets another id."""
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
        """Claim calls; return how many. After a throttled call, the limiter may need some
        milliseconds."""
        claims: list[Claim] = []
        for _ in range(20):
            claims, wait_seconds = await self.store.claim(limit)
            if claims or wait_seconds is None or wait_seconds > 0.25:
                break
            await asyncio.sleep(wait_seconds)
        for claim in claims:
            if claim.call is Call.START:
                self.schedules[claim.item.batch_id].note_start(self.clock())
            aged = replace(claim, taken_at=claim.taken_at + self.passed)
            self.calls.append(PendingCall(aged, self.store, self.remote, self.clock))
        for import_id, item in (await self.read_store()).items.items():
            if item.state is State.STARTING and self.states[import_id] is State.WAITING:
                self.states[import_id] = State.STARTING  # claimed, or about to be reconciled
        return len(claims)

    async def begin(self, call: PendingCall, behavior: Behavior, lag: float) -> None:
        """Make a call. If the worker was stalled for too long, the claim is given back instead."""
        before = await self._record(call)
        has_lease = before.get("lease") == call.claim.lease
        await call.begin(behavior, lag)
        if call.answer is None:
            self.calls.remove(call)
            assert has_lease or await self._record(call) == before, (
                "a late worker has changed something"
            )
            await self._note_recorded(call, has_lease=has_lease)

    async def deliver(self, call: PendingCall, *, twice: bool) -> None:
        """Deliver an answer. It may change something only while its lease is valid."""
        self.calls.remove(call)
        before = await self._record(call)
        has_lease = before.get("lease") == call.claim.lease
        await call.deliver(twice=twice)
        assert has_lease or await self._record(call) == before, (
            "a late answer has changed something"
        )
        await self._note_recorded(call, has_lease=has_lease)

    async def crash(self, call: PendingCall) -> None:
        """Kill a worker; its lease will expire."""
        self.calls.remove(call)
        await call.crash()

    async def cancel(self, import_id: str) -> None:
        """Cancel: at once, unless a call is in progress or of unknown outcome."""
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

    async def announce(self, batch_id: str, what: str) -> None:
        """Announce a batch with a schedule, before any of its imports arrives; '' for none."""
        if what:
            await self.store.announce_batch(batch_id, 1)
            await self.schedule(batch_id, what)

    async def schedule(self, batch_id: str, what: str) -> None:
        """Change a batch's schedule: `later`, `closed`, `paced`, or `clear`."""
        now, schedule, change = self.clock(), self.schedules[batch_id], Schedule()
        seconds, microseconds = await self._redis.time()
        if what == "later":
            delay_ms = round(LATER_SECONDS * 1000)
            change = Schedule(start_at_ms=seconds * 1000 + microseconds // 1000 + delay_ms)
        elif what == "closed":
            opens = datetime.fromtimestamp(seconds, UTC) + timedelta(hours=11)
            change = Schedule(window=f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC")
        elif what == "paced":
            change = Schedule(max_per_hour=MAX_PER_HOUR)
        if not await self.batches.schedule(batch_id, change, clear=what == "clear"):
            return
        if what == "later":
            schedule.start_at = now + LATER_SECONDS - 0.01
        elif what == "closed":
            schedule.closed = True
        elif what == "paced":
            schedule.pace(now)
        else:
            self.schedules[batch_id] = BatchSchedule()

    async def finish_overdue_tasks(self) -> set[str]:
        """Take the tasks that have not finished in time, and finish them; return their imports."""
        found = await self.store.overdue(1000, LEASE_SECONDS)
        for ended in found:
            assert ended.item.state in TERMINAL
            for task_id in ended.tasks:
                await self.store.note_task_done(ended.item.id, task_id)
        return {ended.item.id for ended in found}

    async def _record(self, call: PendingCall) -> dict[str, str]:
        return record_of(await self._redis.hgetall(f"imports:import:{call.claim.item.id}"))

    async def _note_recorded(self, call: PendingCall, *, has_lease: bool) -> None:
        if not has_lease:
            return
        claim, answer, import_id = call.claim, call.answer, call.claim.item.id
        if answer:
            self.remote.note_recorded(claim, answer)
        age = claim.age_seconds + self.clock() - claim.taken_at
        allowed = next_states(claim, answer, age, cancelled=import_id in self.cancelled)
        item = await self.store.load(import_id)
        assert item is not None
        assert item.state in allowed, f"{import_id} is {item.state} after {claim.call}: {answer}"
        if item.undecided:
            why = self.remote.may_be_undecided(item)
            assert why, f"{import_id} is undecided without reason: {item.undecided}"
        self.states[import_id] = item.state

    async def resolve_all(self) -> None:
        """Resolve undecided imports by the truth, as an operator would."""
        for item in (await self.read_store()).items.values():
            if item.undecided:
                await self._resolve(item)

    async def _resolve(self, item: Import) -> None:
        own = self.remote.owned_by(item.id)
        if item.job_id:
            status = self.remote.by_id(item.job_id).status
            action = Action.SUCCEED if status == "COMPLETED" else Action.FAIL
            resolution = await self.store.resolve(item.id, action, error="by an operator")
            self.states[item.id] = OUTCOMES[status]
        elif own:
            resolution = await self.store.resolve(item.id, Action.ADOPT, job_id=own[0].job_id)
            self.states[item.id] = State.RUNNING
        else:
            resolution = await self.store.resolve(item.id, Action.START_AGAIN)
            self.states[item.id] = State.WAITING
            self.remote.unreconciled.discard(item.id)
            self.remote.unlisted_starts.discard(item.id)
            self.remote.first_called.pop(item.id, None)
        assert resolution is Resolution.RESOLVED
        if item.id in self.cancelled and self.states[item.id] not in TERMINAL:
            self.states[item.id] = State.CANCELLED
