"""Clock: workers whose clocks are off work beside others, and die with work in their hands.

By what AWS bears, many times a lease, they work like others: what such a worker took along must
come back after about a lease, and it may not take others' work for overdue. By an hour, AWS
refuses what they sign: they stand down, and hold up nobody.
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
SKEWS_SECONDS: Final = (230, -3600, -230, 3600)
SETTINGS: Final = {
    "IMPORTS_LEASE_SECONDS": "4",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "20",
}
LIVES_SECONDS: Final = (0.0, 3.0)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it; `rounds` workers have each of the wrong clocks."""

    imports: int = 500
    messages_per_second: float = 12
    workers: int = 2
    rounds: int = 2


def trials(seed: int) -> Iterator[Trial]:
    """Yield the one trial of this module."""
    yield clock(seed, Size())


def clock(seed: int, size: Size) -> Trial:
    """Let workers come and go whose clocks are wrong."""
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
        trial = judge("clock", stage, load, started, size.imports)
        trial.violations.extend(_paused_for_clocks(stage))
        return trial


def _paused_for_clocks(stage: Stage) -> Iterator[str]:
    for event in stage.producer.events("lane.paused"):
        if "clock" in event["data"]["reason"]:
            yield f"a lane paused though others served it: {event['data']['reason']}"


def _live_and_die(stage: Stage, fleet: Fleet, dice: random.Random, skew_seconds: int) -> None:
    worker = fleet.add(PROGRAM, {"CLOCK_SKEW_SECONDS": str(skew_seconds)})
    fleet.ready(worker)
    stage.faults["wrong clocks"] += 1
    time.sleep(dice.uniform(*LIVES_SECONDS))
    fleet.kill(worker)
    print(f"  {stage.outcomes.over():,} over, {skew_seconds:+} s", flush=True)
