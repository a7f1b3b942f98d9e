"""A worker of the simulation: the real conductor, engine and store, on a simulated machine."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from redis.asyncio import Redis

from config.settings import Settings
from tests.simulation.aws import SimulatedAws
from tests.simulation.plan import SETTINGS
from tests.simulation.server import Server
from tests.simulation.world import Machine, World
from tests.world import AnyAccount
from worker.conductor import Conductor
from worker.domain.claims import Call, Claim
from worker.domain.imports import Import
from worker.domain.outcomes import Ended, Envelope, LaneLimits
from worker.domain.states import State
from worker.engine.admit import Admitter
from worker.engine.advance import Advancer
from worker.engine.own_clock import OwnClock
from worker.engine.tracing import Untraced
from worker.operations.aws import Aws
from worker.operations.registry import OPERATIONS
from worker.parameters import policy_of, store_config
from worker.runtime import Runtime
from worker.store.connection import StoreUnavailableError
from worker.store.store import ImportStore

NOTHING_SECONDS: Final = 3600.0


@cache
def settings_with(limits: LaneLimits) -> Settings:
    """Return the settings of workers with these limits."""
    return Settings(
        **SETTINGS,
        start_rate=limits.start_rate,
        start_burst=limits.start_burst,
        poll_rate=limits.poll_rate,
        poll_burst=limits.poll_burst,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A permit for one call: its number, and when it was given (ms, server's clock)."""

    number: float
    at: float


class CallLog:
    """What all workers together were granted, and what they reported."""

    def __init__(self) -> None:
        self.grants: defaultdict[tuple[str, str], list[Grant]] = defaultdict(list)
        """Lane and class of calls → grants."""
        self.reported: defaultdict[str, set[State]] = defaultdict(set)
        """Task → outcomes that it was reported to have."""
        self.starts: defaultdict[str, list[float]] = defaultdict(list)
        """Batch → when its starts were claimed (ms, server's clock)."""
        self.ends: Counter[str] = Counter()
        """Import → how many workers have learned of its end."""

    def note_grant(self, claim: Claim) -> None:
        """Record what a claim was granted."""
        kind, number, at, *_ = claim.grant.split()
        self.grants[claim.item.lane, kind].append(Grant(number=float(number), at=float(at)))
        if claim.call is Call.START:
            self.starts[claim.item.batch_id].append(float(at))


class LoggingAdvancer(Advancer):
    """The engine, which also records what it is granted."""

    call_log: CallLog

    async def advance(self, claim: Claim) -> float | None:
        """Carry out a claim."""
        self.call_log.note_grant(claim)
        return await super().advance(claim)


class EndCounter(Untraced):
    """Checks that no end is counted, logged and traced twice, by whichever workers."""

    def __init__(self, world: World, call_log: CallLog) -> None:
        self._world = world
        self._ends = call_log.ends

    def ended(self, item: Import) -> None:
        """Note that a worker has learned of an end."""
        self._ends[item.id] += 1
        if self._ends[item.id] > 1:
            self._world.report_violation(f"the end of {item.id} is counted twice")


class SimulatedAnnouncer:
    """Stands for Celery: a task whose end is reported finishes, unless its worker dies before."""

    def __init__(self, world: World, store: ImportStore, call_log: CallLog) -> None:
        self._world = world
        self._store = store
        self._call_log = call_log

    async def waiting(self, envelopes: Sequence[Envelope], targets: Sequence[str]) -> None:
        """Show nothing."""

    def accepted(self, envelope: Envelope, target: str, lane: str, batch_id: str) -> None:
        """Show nothing."""

    async def settled(self) -> None:
        """Return at once: `ended` has finished the tasks."""

    async def repair(self, item: Import) -> None:
        """Show nothing, but take time."""
        await self._world.pause(f"shows the end of {item.id}")

    async def running(self, item: Import, job_id: str, status: str) -> bool:  # noqa: ARG002 - the signature of the port
        """Show nothing, but take time, and let the import be looked at again."""
        await self._world.pause(f"shows {item.id}")
        return True

    async def ended(self, ended: Ended) -> None:
        """Let each task finish."""
        for task_id in ended.tasks:
            await self._world.pause(f"finishes {task_id}")
            self._call_log.reported[task_id].add(ended.item.state)
            try:
                await self._store.note_task_done(ended.item.id, task_id)
            except StoreUnavailableError as error:
                self._world.note(f"does not note that {task_id} is done: {error}")


class EmptyStream:
    """A stream of requests that is always empty: in the simulation, requests come as messages."""

    async def open(self) -> None:
        """Create nothing."""

    async def read(self, _block_ms: int) -> list[Any]:
        """Wait, and return nothing."""
        await asyncio.sleep(NOTHING_SECONDS)
        return []

    async def take_over(self, _idle_ms: int) -> list[Any]:
        """Find nothing."""
        return []


class SimulatedRuntime:
    """What a conductor needs of its process."""

    messages = None
    requests_queue = None
    duties: Final[Mapping[str, Any]] = {}

    def __init__(
        self,
        world: World,
        server: Server,
        aws: SimulatedAws,
        call_log: CallLog,
    ) -> None:
        self.settings = settings_with(world.plan.limits)
        self.store = ImportStore(cast("Redis", server), store_config(self.settings))
        self.requests = EmptyStream()
        self.announcer = SimulatedAnnouncer(world, self.store, call_log)
        self.tracing = EndCounter(world, call_log)
        self.admitter = Admitter(
            OPERATIONS, self.store, AnyAccount(), aws, self.announcer, tracer=self.tracing
        )
        self.own_clock = OwnClock(_monotonic)
        self.advancer = LoggingAdvancer(
            OPERATIONS.bind(cast("Aws", aws)),
            self.store,
            self.announcer,
            policy_of(self.settings),
            self.settings.lease_seconds,
            self.own_clock,
            world.rng.random,
            _monotonic,
            tracer=self.tracing,
        )
        self.advancer.call_log = call_log

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call a function on the loop."""
        asyncio.get_running_loop().call_soon(callback)

    async def prepare(self) -> None:
        """Prepare nothing."""


def _monotonic() -> float:
    return time.monotonic()  # looked up at each call, as each machine has its own clock


class SimulatedWorker:
    """A machine with a conductor on it."""

    def __init__(self, machine: Machine, runtime: SimulatedRuntime) -> None:
        self.machine = machine
        self.admitter = runtime.admitter
        self.conductor = Conductor(cast("Runtime", runtime), machine.name)
