"""The world of one seed: time, randomness, and workers that are killed, frozen and overtaken.

All of this happens in `World.pause`, which every wait of a worker goes through.
"""

import asyncio
import contextvars
import random
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from tests.simulation.loop import Skew, VirtualLoop
from tests.simulation.plan import Plan

MOMENT_SECONDS: Final = 0.002
"""How long a step takes, on average."""

TraceEntry = tuple[float, str, str]
"""When (seconds since the start), on which machine, what."""


class Machine:
    """What a worker or another actor runs on. Both of its clocks are off by `skew`."""

    def __init__(self, name: str, skew: tuple[float, float] = (0.0, 0.0)) -> None:
        self.name = name
        self.skew = skew
        self.is_immune = False
        """Whether no fault ever happens to it."""
        self.is_dead = False
        self.frozen_until = 0.0
        self.tasks: list[asyncio.Task[Any]] = []

    def kill(self) -> None:
        """Kill it: nothing that it does takes effect any more."""
        self.is_dead = True
        for task in self.tasks:
            task.cancel()


OUTSIDE: Final = Machine("world")
OUTSIDE.is_immune = True
MACHINE: Final = contextvars.ContextVar("MACHINE", default=OUTSIDE)
SKEW: Final[Skew] = contextvars.ContextVar("SKEW", default=(0.0, 0.0))


class World:
    """Time, randomness and trace of one seed."""

    def __init__(self, plan: Plan, loop: VirtualLoop) -> None:
        self.plan = plan
        self.rng = random.Random(f"world {plan.seed}")
        self.trace: list[TraceEntry] = []
        self.violations: list[str] = []
        self._loop = loop
        loop.set_task_factory(_task_of_machine)

    @property
    def now(self) -> float:
        """The server's time, in seconds since the start."""
        return self._loop.time()

    @property
    def faults_active(self) -> bool:
        """Whether faults still happen."""
        return self.now < self.plan.faults_seconds

    @property
    def steps(self) -> int:
        """How many entries the trace has."""
        return len(self.trace)

    def note(self, what: str) -> None:
        """Add an entry to the trace."""
        self.trace.append((self.now, MACHINE.get().name, what))

    def report_violation(self, violation: str) -> None:
        """Record a violation, once."""
        self.note(f"VIOLATION {violation}")
        if violation not in self.violations:
            self.violations.append(violation)

    def fault_occurs(self, chance: float) -> bool:
        """Return whether a fault with this probability happens to the current machine."""
        return self.faults_active and not MACHINE.get().is_immune and self.rng.random() < chance

    async def pause(self, what: str, weight: float = 1.0) -> None:
        """Take a moment, in which the current machine may be killed, frozen or overtaken.

        `weight` multiplies the probability at steps where a fault does most harm.
        """
        machine = MACHINE.get()
        _stop_if_dead(machine)
        self.note(what)
        if self.fault_occurs(weight * self.plan.chances.kill):
            self.note("is killed")
            machine.kill()
            _stop_if_dead(machine)
        if self.fault_occurs(weight * self.plan.chances.freeze):
            machine.frozen_until = self.now + self.rng.uniform(0, self.plan.chances.freeze_seconds)
            self.note(f"freezes until {machine.frozen_until:.3f}")
        await asyncio.sleep(self.rng.expovariate(1 / MOMENT_SECONDS))
        while machine.frozen_until > self.now:  # noqa: ASYNC110 - it may freeze again meanwhile
            await asyncio.sleep(machine.frozen_until - self.now)
        _stop_if_dead(machine)

    def run_on(self, machine: Machine, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine on a machine."""
        context = contextvars.copy_context()
        context.run(MACHINE.set, machine)
        context.run(SKEW.set, machine.skew)
        return context.run(self._loop.create_task, coroutine)


def _stop_if_dead(machine: Machine) -> None:
    if machine.is_dead:
        raise asyncio.CancelledError


def _task_of_machine(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    MACHINE.get().tasks.append(task)
    return task


async def wait_for(task: asyncio.Task[Any]) -> None:
    """Wait until a task has ended in any way, including the death of its machine."""
    await asyncio.wait([task])
    with suppress(asyncio.CancelledError):
        task.result()
