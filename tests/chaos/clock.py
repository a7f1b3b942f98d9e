"""Clock: workers with wrong clocks run beside workers with right ones, and are killed during calls.

AWS tolerates a clock that is off by some minutes, which is many leases. Such a worker must work
like any other: after it is killed, its claims must be taken over after about one lease, and it must
not take over leases that have not expired. AWS refuses requests that are signed by a clock that is
an hour off. Such a worker must stand down, and must not delay the others.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.chaos.freeze import slow_scenario
from tests.chaos.load import Load
from tests.chaos.testbed import Fleet, Testbed, open_fleet, open_testbed
from tests.chaos.trial import Trial
from tests.chaos.trial_checks import check_trial

PROGRAM: Final = "tests.chaos.skewed_clock"
SKEWS_SECONDS: Final = (230, -3600, -230, 3600)
SETTINGS: Final = {
    "IMPORTS_LEASE_SECONDS": "4",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "20",
}
LIFETIME_SECONDS: Final = (0.0, 3.0)


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the trial; `rounds` workers run with each wrong clock."""

    imports: int = 500
    messages_per_second: float = 12
    workers: int = 2
    rounds: int = 2


def trials(seed: int) -> Iterator[Trial]:
    """Yield the only trial of this module."""
    yield clock(seed, Size())


def clock(seed: int, size: Size) -> Trial:
    """Start and kill workers whose clocks are wrong."""
    rng = random.Random(f"clock {seed}")
    started = time.monotonic()
    with (
        open_testbed(SETTINGS, slow_scenario(seed)) as testbed,
        open_fleet(testbed, size.workers) as fleet,
        Load(testbed.producer, rng, size.imports, size.messages_per_second) as load,
    ):
        testbed.faults["duplicates"] = len(load.duplicates)
        for skew_seconds in SKEWS_SECONDS * size.rounds:
            _run_and_kill(testbed, fleet, rng, skew_seconds)
        trial = check_trial("clock", testbed, load, started, size.imports)
        trial.violations.extend(_paused_for_clocks(testbed))
        return trial


def _paused_for_clocks(testbed: Testbed) -> Iterator[str]:
    for event in testbed.producer.events("lane.paused"):
        if "clock" in event["data"]["reason"]:
            yield f"a lane paused though others served it: {event['data']['reason']}"


def _run_and_kill(testbed: Testbed, fleet: Fleet, rng: random.Random, skew_seconds: int) -> None:
    worker = fleet.add(PROGRAM, {"CLOCK_SKEW_SECONDS": str(skew_seconds)})
    fleet.wait_until_ready(worker)
    testbed.faults["wrong clocks"] += 1
    time.sleep(rng.uniform(*LIFETIME_SECONDS))
    fleet.kill(worker)
    print(f"  {testbed.outcomes.over():,} over, {skew_seconds:+} s", flush=True)
