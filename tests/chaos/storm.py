"""Storm: workers and the store are killed, messages come twice, the API is at its most hostile."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.judge import judge
from tests.chaos.load import Load
from tests.chaos.stage import Fleet, Stage, fleet_of, staged
from tests.chaos.trial import Trial
from worker.sandbox.loader import load_scenario
from worker.sandbox.scenario import Bucket, BucketName, Quota, RateChange, RetryAfter, Scenario

SETTINGS: Final = {
    # Limits are learned, while they change.
    "IMPORTS_START_RATE": "",
    "IMPORTS_START_BURST": "",
    "IMPORTS_POLL_RATE": "",
    "IMPORTS_POLL_BURST": "",
    "IMPORTS_POLL_MIN_SECONDS": "0.5",
    "IMPORTS_POLL_MAX_SECONDS": "3",
    "IMPORTS_LEASE_SECONDS": "6",
    # Longer than the scenario's list lags, and its new jobs stay unknown.
    "IMPORTS_SETTLE_SECONDS": "4",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    # A call in ten is lost, and each kill loses some more.
    "IMPORTS_MAX_ATTEMPTS": "20",
}
TOLD_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it: all is bounded by these numbers."""

    imports: int = 2000
    messages_per_second: float = 25
    workers: int = 3
    spares: int = 2
    kills: int = 200
    restarts: int = 2
    lives_seconds: tuple[float, float] = (0.3, 1.2)
    seconds: float = 270


def trials(seed: int) -> Iterator[Trial]:
    """Yield the one trial of this module."""
    yield storm(seed, Size())


def storm(seed: int, size: Size) -> Trial:
    """Let it break loose; whatever the size, the promises are the same."""
    dice = random.Random(f"storm {seed}")
    started = time.monotonic()
    with (
        staged(SETTINGS, hostile_scenario(seed, dice)) as stage,
        fleet_of(stage, size.workers, size.spares) as fleet,
        Load(stage.producer, dice, size.imports, size.messages_per_second) as load,
    ):
        stage.faults["duplicates"] = len(load.duplicates)
        _rage(stage, fleet, dice, size)
        return judge("storm", stage, load, started, size.imports)


def _rage(stage: Stage, fleet: Fleet, dice: random.Random, size: Size) -> None:
    """Kill until everything is over, or the bounds are met; what is left must end by itself."""
    restarts = sorted((dice.uniform(0.1, 0.7) for _ in range(size.restarts)), reverse=True)
    deadline = time.monotonic() + size.seconds
    told = time.monotonic()
    while (over := stage.outcomes.over()) < size.imports and time.monotonic() < deadline:
        if restarts and over >= size.imports * restarts[-1]:
            restarts.pop()
            stage.store.kill_and_restart()
            stage.faults["kills of the store"] += 1
        if stage.faults["kills"] < size.kills:
            fleet.kill_one(dice)
        time.sleep(dice.uniform(*size.lives_seconds))
        if time.monotonic() - told > TOLD_SECONDS:
            told = time.monotonic()
            print(f"  {over:,} of {size.imports:,} over, {stage.faults['kills']} kills", flush=True)


def hostile_scenario(seed: int, dice: random.Random) -> Scenario:
    """Return the scenario `hostile` with a quota that lets this many through, and changes."""
    changes = [
        RateChange(at_seconds=second, bucket=bucket, rate=dice.uniform(*rates))
        for second in range(15, 300, 15)
        for bucket, rates in ((BucketName.STARTS, (8, 40)), (BucketName.READS, (30, 120)))
    ]
    quota = Quota(
        starts=Bucket(rate=30, burst=15),
        reads=Bucket(rate=80, burst=30),
        max_running=100,
        retry_after=RetryAfter.FRACTION,
        changes=tuple(changes),
    )
    return load_scenario("hostile").model_copy(update={"seed": seed, "quota": quota})
