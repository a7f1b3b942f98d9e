"""Clock: workers whose clocks are an hour off work beside others, and die with work in their hands.

No decision may compare two machines' clocks: what such a worker took along must come back after
about a lease, not after an hour, and it may not take others' work for overdue.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.freeze import slow_scenario
from tests.chaos.judge import judge
from tests.chaos.load import Load
from tests.chaos.stage import Fleet, Stage, fleet_of, staged
from tests.chaos.trial import Trial

PROGRAM: Final = "tests.chaos.skewed"
SKEWS_SECONDS: Final = (3600, -3600)
SETTINGS: Final = {
    "IMPORTS_LEASE_SECONDS": "4",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "20",
}
LIVES_SECONDS: Final = (0.0, 3.0)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it; `rounds` workers are ahead, and as many behind."""

    imports: int = 500
    messages_per_second: float = 12
    workers: int = 2
    rounds: int = 4


def trials(seed: int) -> Iterator[Trial]:
    """Yield the one trial of this module."""
    yield clock(seed, Size())


def clock(seed: int, size: Size) -> Trial:
    """Let workers come and go that are ahead and behind in turn."""
    dice = random.Random(f"clock {seed}")
    started = time.monotonic()
    with (
        staged(SETTINGS, slow_scenario(seed)) as stage,
        fleet_of(stage, size.workers) as fleet,
        Load(stage.producer, dice, size.imports, size.messages_per_second) as load,
    ):
        stage.faults["duplicates"] = len(load.duplicates)
        for skew_seconds in SKEWS_SECONDS * size.rounds:
            _live_and_die(stage, fleet, dice, skew_seconds)
        return judge("clock", stage, load, started, size.imports)


def _live_and_die(stage: Stage, fleet: Fleet, dice: random.Random, skew_seconds: int) -> None:
    worker = fleet.add(PROGRAM, {"CLOCK_SKEW_SECONDS": str(skew_seconds)})
    fleet.ready(worker)
    stage.faults["wrong clocks"] += 1
    time.sleep(dice.uniform(*LIVES_SECONDS))
    fleet.kill(worker)
    print(f"  {stage.outcomes.over():,} over, {skew_seconds:+} s", flush=True)
