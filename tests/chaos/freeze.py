"""Freeze: a worker stands still past its lease in the middle of calls, and wakes up after others.

A machine that swaps, a virtual machine that is moved. Whoever wakes up goes on with what it had in
hand: its late answers must change nothing.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.judge import judge
from tests.chaos.load import Load
from tests.chaos.stage import Fleet, Stage, fleet_of, staged
from tests.chaos.trial import Trial
from worker.sandbox.api import Operation
from worker.sandbox.scenario import FaultKind, FaultSettings, JobSettings, Scenario

LEASE_SECONDS: Final = 4
SETTINGS: Final = {
    "IMPORTS_LEASE_SECONDS": str(LEASE_SECONDS),
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "20",
}
FROZEN_LEASES: Final = (1.2, 3.5)
"""For how many leases one stands still: up to longer than messages stay invisible."""

SLOW: Final = 0.6
"""The part of calls that are slow, so that a worker always has some in its hands."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it; a few freezes may meet no call, so that `must_meet_calls` asks for more."""

    imports: int = 600
    messages_per_second: float = 8
    workers: int = 3
    freezes: int = 7
    must_meet_calls: bool = True


def trials(seed: int) -> Iterator[Trial]:
    """Yield the one trial of this module."""
    yield freeze(seed, Size())


def freeze(seed: int, size: Size) -> Trial:
    """Freeze one worker after the other."""
    dice = random.Random(f"freeze {seed}")
    started = time.monotonic()
    with (
        staged(SETTINGS, slow_scenario(seed)) as stage,
        fleet_of(stage, size.workers) as fleet,
        Load(stage.producer, dice, size.imports, size.messages_per_second) as load,
    ):
        stage.faults["duplicates"] = len(load.duplicates)
        for _ in range(size.freezes):
            _freeze_one(stage, fleet, dice)
        trial = judge("freeze", stage, load, started, size.imports)
        if size.must_meet_calls and not stage.logged("claim.lost"):
            trial.violations.append(
                "no worker was frozen in the middle of a call: nothing is shown"
            )
        return trial


def _freeze_one(stage: Stage, fleet: Fleet, dice: random.Random) -> None:
    worker = fleet.one(dice)
    time.sleep(dice.uniform(0, 1))
    fleet.freeze(worker)
    time.sleep(LEASE_SECONDS * dice.uniform(*FROZEN_LEASES))
    fleet.wake(worker)
    over, late = stage.outcomes.over(), stage.logged("claim.lost")
    print(f"  {over:,} over, {stage.faults['freezes']} freezes, {late} late answers", flush=True)


def slow_scenario(seed: int) -> Scenario:
    """Return an API that takes its time, and some of whose jobs fail."""
    return Scenario(
        seed=seed,
        missing_app_prefixes=("d0missing",),
        jobs=JobSettings(min_seconds=0.5, max_seconds=3, failure_rate=0.1),
        faults={operation: {FaultKind.SLOW: SLOW} for operation in Operation},
        fault_settings=FaultSettings(slow_seconds=0.8),
    )
