"""Storm: workers and the store are killed, messages come twice, and the API has every fault."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.load import Load
from tests.chaos.operator_decisions import decide_as_operator
from tests.chaos.testbed import Fleet, Testbed, open_fleet, open_testbed
from tests.chaos.trial import Trial
from tests.chaos.trial_checks import check_trial
from worker.sandbox.loader import load_scenario
from worker.sandbox.scenario import Bucket, BucketName, Quota, RateChange, RetryAfter, Scenario

SETTINGS: Final = {
    # The workers learn the limits, which change meanwhile.
    "IMPORTS_START_RATE": "",
    "IMPORTS_START_BURST": "",
    "IMPORTS_POLL_RATE": "",
    "IMPORTS_POLL_BURST": "",
    "IMPORTS_POLL_MIN_SECONDS": "0.5",
    "IMPORTS_POLL_MAX_SECONDS": "3",
    "IMPORTS_LEASE_SECONDS": "6",
    # Longer than the scenario's lists lag and its new jobs stay unknown.
    "IMPORTS_SETTLE_SECONDS": "4",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    # One call in ten is lost, and each kill loses more.
    "IMPORTS_MAX_ATTEMPTS": "20",
}
REPORT_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the trial."""

    imports: int = 2000
    messages_per_second: float = 25
    workers: int = 3
    spares: int = 2
    kills: int = 200
    restarts: int = 2
    lifetime_seconds: tuple[float, float] = (0.3, 1.2)
    seconds: float = 270


def trials(seed: int) -> Iterator[Trial]:
    """Yield the only trial of this module."""
    yield storm(seed, Size())


def storm(seed: int, size: Size) -> Trial:
    """Run the trial; the promises are the same for every size."""
    rng = random.Random(f"storm {seed}")
    started = time.monotonic()
    with (
        open_testbed(SETTINGS, hostile_scenario(seed, rng)) as testbed,
        open_fleet(testbed, size.workers, size.spares) as fleet,
        Load(testbed.producer, rng, size.imports, size.messages_per_second) as load,
    ):
        testbed.faults["duplicates"] = len(load.duplicates)
        _inject_faults(testbed, fleet, rng, size)
        return check_trial("storm", testbed, load, started, size.imports)


def _inject_faults(testbed: Testbed, fleet: Fleet, rng: random.Random, size: Size) -> None:
    """Kill workers until everything is over or the limits are reached."""
    restarts = sorted((rng.uniform(0.1, 0.7) for _ in range(size.restarts)), reverse=True)
    deadline = time.monotonic() + size.seconds
    reported_at = time.monotonic()
    while (over := testbed.outcomes.over()) < size.imports and time.monotonic() < deadline:
        if restarts and over >= size.imports * restarts[-1]:
            restarts.pop()
            testbed.store.kill_and_restart()
            testbed.faults["kills of the store"] += 1
        if testbed.faults["kills"] < size.kills:
            fleet.kill_one(rng)
        time.sleep(rng.uniform(*size.lifetime_seconds))
        if time.monotonic() - reported_at > REPORT_SECONDS:
            reported_at = time.monotonic()
            decide_as_operator(testbed)
            print(
                f"  {over:,} of {size.imports:,} over, {testbed.faults['kills']} kills", flush=True
            )


def hostile_scenario(seed: int, rng: random.Random) -> Scenario:
    """Return the scenario `hostile` with a quota that is large enough for the load, and changes."""
    changes = [
        RateChange(at_seconds=second, bucket=bucket, rate=rng.uniform(*rates))
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
