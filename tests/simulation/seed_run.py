"""Run one seed, from its first message to the last check."""

import asyncio
import logging
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from tests.chaos.testbed import DEFECTS
from tests.simulation.aws import SimulatedAws
from tests.simulation.checks import broken_promises, left_behind, violations_of
from tests.simulation.loop import VirtualLoop, virtual_clocks
from tests.simulation.plan import BATCH, LEASE_SECONDS, SKEWS_SECONDS, Delivery, plan_of
from tests.simulation.server import Server
from tests.simulation.worker import CallLog, SimulatedRuntime, SimulatedWorker, settings_with
from tests.simulation.world import OUTSIDE, SKEW, Machine, TraceEntry, World, wait_for
from worker.domain.imports import Import
from worker.domain.outcomes import Action, Envelope
from worker.domain.states import TERMINAL
from worker.engine.checking import Parcel
from worker.operations.registry import OPERATIONS
from worker.parameters import store_config
from worker.sandbox.jobs import JobStatus
from worker.sandbox.scenario import Credentials
from worker.store.connection import StoreUnavailableError
from worker.store.keys import IMPORT, UNFINISHED
from worker.store.records import import_of, record_of
from worker.store.store import ImportStore

CHECK_SECONDS: Final = 2.0
MAX_WAIT_SECONDS: Final = 900.0
"""Probes of lanes may wait for up to five minutes."""

MAX_STEPS: Final = 1000
"""More steps than this in `CHECK_SECONDS` mean that a worker is in a busy loop; 300 is already
many."""

Changes = Sequence[tuple[str, str]]
"""Texts in scripts and their replacements."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a seed, after `seconds` of virtual time."""

    seed: int
    seconds: float
    violations: list[str]
    trace: list[TraceEntry]


def run_seed(
    seed: int,
    redis: "Redis",
    url: str,
    changes: Changes = (),
    max_wait_seconds: float = MAX_WAIT_SECONDS,
) -> Outcome:
    """Run a seed on an empty database, with changes to the scripts if any are given.

    Once the faults have stopped, everything may take `max_wait_seconds`.
    """
    redis.flushdb()
    loop = VirtualLoop()
    world = World(plan_of(seed), loop)
    seed_run = _SeedRun(world, redis, changes, max_wait_seconds)
    with virtual_clocks(loop.time, SKEW), _logs_in(world):
        try:
            loop.run_until_complete(seed_run.run())
        finally:
            loop.run_until_complete(_end_all())
            loop.close()
    seconds = loop.time()
    world.violations += broken_promises(url, seconds)
    return Outcome(seed, seconds, world.violations, world.trace)


async def _end_all() -> None:
    """Cancel what still runs."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@contextmanager
def _logs_in(world: World) -> Iterator[None]:
    """Add what workers log to the trace; a forbidden log event is a violation."""

    def note(_logger: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        text = f"{level} " + " ".join(f"{name}={value}" for name, value in event.items())
        world.note(text)
        if event["event"] in DEFECTS:
            world.report_violation(f"logged: {text}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            note,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


class _SeedRun:
    """One run of one seed."""

    def __init__(
        self, world: World, redis: "Redis", changes: Changes, max_wait_seconds: float
    ) -> None:
        self._world = world
        self._max_wait_seconds = max_wait_seconds
        self._plan = world.plan
        self._redis: Any = redis
        self._server = Server(redis, world, changes)
        self._call_log = CallLog()
        self._workers: list[SimulatedWorker] = []
        self._started = 0
        self._admitted: set[str] = set()
        self._store = ImportStore(
            cast("AsyncRedis", self._server), store_config(settings_with(self._plan.limits))
        )
        self._aws: SimulatedAws

    async def run(self) -> None:
        """Run until everything is over or the time is."""
        settings = settings_with(self._plan.limits)
        self._aws = SimulatedAws(
            self._world, settings.call_timeout_seconds, settings.acknowledged_seconds
        )
        self._aws.state_of = self._state_of
        await self._announce_batch()
        for _ in range(self._plan.workers):
            self._add_worker()
        for one in self._plan.deliveries:
            for again in range(one.times):
                self._world.run_on(OUTSIDE, self._deliver(one, one.at + again * 3.0))
        for at, import_id in self._plan.cancellations:
            self._world.run_on(OUTSIDE, self._cancel(at, import_id))
        for begin, end, account in self._plan.expiries:
            self._world.run_on(OUTSIDE, self._expire(begin, end, account))
        time_limit = self._plan.faults_seconds + self._max_wait_seconds
        while self._left() and self._world.now < time_limit:
            before = self._world.steps
            await asyncio.sleep(CHECK_SECONDS)
            if self._world.steps - before > MAX_STEPS:
                self._world.report_violation("a worker is in a busy loop")
                break
            self._replace_workers()
            await self._decide_as_operator()
        self._world.violations += self._left()
        await self._stop_all()
        self._world.violations += violations_of(
            self._plan, self._redis, self._aws, self._call_log, self._import_ids
        )

    @property
    def _import_ids(self) -> list[str]:
        return [one.import_id for one in self._plan.deliveries]

    def _state_of(self, import_id: str) -> str:
        return self._redis.hget(IMPORT.name + import_id, "state") or ""

    def _left(self) -> list[str]:
        """Return what has not ended; once all imports have, return what they have left behind."""
        states = zip(self._import_ids, self._each("state"), strict=True)
        left = [
            f"{import_id} has not ended: {state or 'unknown'}"
            for import_id, state in states
            if import_id not in self._admitted or state not in TERMINAL
        ]
        if left:
            return left
        if unfinished := self._redis.zrange(UNFINISHED.name, 0, -1):
            return [f"the tasks of {unfinished} have not finished"]
        return [*left_behind(self._redis)]

    def _each(self, field: str) -> list[str | None]:
        """Return a field of each import's record."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for import_id in self._import_ids:
                pipeline.hgetall(IMPORT.name + import_id)
            return [record_of(fields).get(field) for fields in pipeline.execute()]

    # ---- workers

    def _add_worker(self) -> None:
        self._started += 1
        rng = self._world.rng
        wall = rng.choice(SKEWS_SECONDS) if self._world.faults_active and self._started > 1 else 0.0
        machine = Machine(f"worker-{self._started}", (rng.uniform(0, 1e6), wall))
        runtime = SimulatedRuntime(self._world, self._server, self._aws, self._call_log)
        worker = SimulatedWorker(machine, runtime)
        self._workers.append(worker)
        self._world.run_on(machine, worker.conductor.start())

    def _replace_workers(self) -> None:
        """Replace dead workers after a while, and, once faults have stopped, those with wrong
        clocks."""
        rng = self._world.rng
        for worker in [*self._workers]:
            machine = worker.machine
            if machine.is_dead:
                if not self._world.faults_active or rng.random() < 0.5:
                    self._workers.remove(worker)
                    self._add_worker()
            elif (machine.skew[1] and not self._world.faults_active) or (
                self._world.faults_active and rng.random() < 0.02
            ):
                self._workers.remove(worker)
                self._world.run_on(machine, worker.conductor.stop())
                self._add_worker()

    async def _stop_all(self) -> None:
        stopping = [
            self._world.run_on(worker.machine, worker.conductor.stop()) for worker in self._workers
        ]
        for task in stopping:
            await wait_for(task)

    # ---- input

    async def _announce_batch(self) -> None:
        """Announce the batch with its schedule, before any of its imports arrives."""
        expected = sum(one.request.get("batchId") == BATCH for one in self._plan.deliveries)
        while self._plan.schedule and expected:
            try:
                await self._store.announce_batch(BATCH, expected, schedule=self._plan.schedule)
            except StoreUnavailableError:
                await asyncio.sleep(LEASE_SECONDS / 2)
            else:
                return

    async def _deliver(self, one: Delivery, at: float) -> None:
        """Give a message to random workers until one has admitted it."""
        await asyncio.sleep(at)
        envelope = Envelope(
            import_id=one.import_id,
            task_id=one.import_id,
            operation=OPERATIONS.name_in(one.request),
            signature='{"kept": 1}',
        )
        while True:
            alive = [each for each in self._workers if not each.machine.is_dead]
            if alive:
                worker = self._world.rng.choice(alive)
                admission = worker.admitter.admit_tasks([Parcel(one.request, envelope)])
                task = self._world.run_on(worker.machine, admission)
                try:
                    await wait_for(task)
                except StoreUnavailableError:
                    self._world.note(f"{one.import_id} could not be admitted")
                if not task.cancelled() and not task.exception():
                    self._admitted.add(one.import_id)
                    return
            await asyncio.sleep(LEASE_SECONDS / 2)

    async def _cancel(self, at: float, import_id: str) -> None:
        await asyncio.sleep(at)
        try:
            wish = await self._store.cancel(import_id, "no longer wanted")
            self._world.note(f"cancel {import_id}: {wish}")
        except StoreUnavailableError as error:
            self._world.note(f"cancel {import_id}: {error}")

    async def _expire(self, begin: float, end: float, account: str) -> None:
        accounts = self._aws.simulation.accounts
        await asyncio.sleep(begin)
        accounts.set_credentials(account, Credentials.EXPIRED)
        await asyncio.sleep(end - begin)
        accounts.set_credentials(account, Credentials.OK)

    # ---- the operator

    async def _decide_as_operator(self) -> None:
        """Resolve undecided imports by what really happened."""
        for import_id, undecided in zip(self._import_ids, self._each("undecided"), strict=True):
            if undecided:
                fields = self._redis.hgetall(IMPORT.name + import_id)
                await self._decide(import_of(import_id, fields))

    async def _decide(self, item: Import) -> None:
        own = self._aws.jobs_of(item.id)
        now = self._aws.simulation.clock.now()
        if not own:
            self._aws.unreconciled.pop(item.id, None)
            decision: dict[str, Any] = {"action": Action.START_AGAIN}
        elif not item.job_id:
            decision = {"action": Action.ADOPT, "job_id": own[0].job_id}
        elif own[0].status(now) is JobStatus.IN_PROGRESS:
            return
        else:
            is_good = own[0].status(now) is JobStatus.COMPLETED
            decision = {
                "action": Action.SUCCEED if is_good else Action.FAIL,
                "error": "by an operator",
            }
        try:
            resolution = await self._store.resolve(item.id, **decision)
            self._world.note(f"operator: {item.id} {decision}: {resolution}")
        except StoreUnavailableError as error:
            self._world.note(f"operator: {item.id}: {error}")
