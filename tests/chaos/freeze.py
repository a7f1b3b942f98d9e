"""Freeze: a worker is stopped in the middle of calls for longer than its lease, and then resumes.

This is what happens on a machine that swaps, or in a virtual machine that is migrated. A worker
that resumes continues with the calls it had begun. Its late answers must change nothing.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.load import Load
from tests.chaos.testbed import Fleet, Testbed, open_fleet, open_testbed
from tests.chaos.trial import Trial
from tests.chaos.trial_checks import check_trial
from worker.sandbox.api import Operation
from worker.sandbox.scenario import FaultKind, FaultSettings, JobSettings, Scenario

LEASE_SECONDS: Final = 4
SETTINGS: Final = {
    "IMPORTS_LEASE_SECONDS": str(LEASE_SECONDS),
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "20",
}
FROZEN_LEASES: Final = (1.2, 3.5)
"""How many leases a freeze lasts: the longest exceeds the visibility timeout of messages."""

SLOW_SHARE: Final = 0.6
"""The share of slow calls, so that a worker always has some in progress."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the trial. With `must_meet_calls`, some freeze must interrupt a call."""

    imports: int = 600
    messages_per_second: float = 8
    workers: int = 3
    freezes: int = 7
    must_meet_calls: bool = True


def trials(seed: int) -> Iterator[Trial]:
    """Yield the only trial of this module."""
    yield freeze(seed, Size())


def freeze(seed: int, size: Size) -> Trial:
    """Freeze one worker after the other."""
    rng = random.Random(f"freeze {seed}")
    started = time.monotonic()
    with (
        open_testbed(SETTINGS, slow_scenario(seed)) as testbed,
        open_fleet(testbed, size.workers) as fleet,
        Load(testbed.producer, rng, size.imports, size.messages_per_second) as load,
    ):
        testbed.faults["duplicates"] = len(load.duplicates)
        for _ in range(size.freezes):
            _freeze_one(testbed, fleet, rng)
        trial = check_trial("freeze", testbed, load, started, size.imports)
        if size.must_meet_calls and not testbed.logged("claim.lost"):
            trial.violations.append(
                "no worker was frozen in the middle of a call: the trial proves nothing"
            )
        return trial


def _freeze_one(testbed: Testbed, fleet: Fleet, rng: random.Random) -> None:
    worker = fleet.pick(rng)
    time.sleep(rng.uniform(0, 1))
    fleet.freeze(worker)
    time.sleep(LEASE_SECONDS * rng.uniform(*FROZEN_LEASES))
    fleet.wake(worker)
    over, late = testbed.outcomes.over(), testbed.logged("claim.lost")
    print(f"  {over:,} over, {testbed.faults['freezes']} freezes, {late} late answers", flush=True)


def slow_scenario(seed: int) -> Scenario:
    """Return a slow API some of whose jobs fail."""
    return Scenario(
        seed=seed,
        missing_app_prefixes=("d0missing",),
        jobs=JobSettings(min_seconds=0.5, max_seconds=3, failure_rate=0.1),
        faults={operation: {FaultKind.SLOW: SLOW_SHARE} for operation in Operation},
        fault_settings=FaultSettings(slow_seconds=0.8),
    )
