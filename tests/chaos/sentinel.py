"""Sentinel: the primary of the store is killed under load, and a replica takes its place.

What the primary had not replicated is lost, including events and messages. The producer therefore
sends everything again, as a producer that does not know of the failover must. Nothing may be done
twice.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.chaos.freeze import SETTINGS, slow_scenario
from tests.chaos.load import Load
from tests.chaos.testbed import Testbed, open_fleet, open_testbed
from tests.chaos.trial import Trial
from tests.chaos.trial_checks import check_trial
from tests.support import wait_until
from tests.support.servers import SentinelSet

FAILOVER_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the trial."""

    imports: int = 300
    messages_per_second: float = 10
    workers: int = 2
    failovers: int = 2


class ReplicatedStore:
    """A primary, a replica and three Sentinels."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._set = SentinelSet(self._directory)
        try:
            self._set.__enter__()
        except BaseException:
            shutil.rmtree(self._directory)
            raise
        self.url = self._set.url

    def kill_and_restart(self) -> None:
        """Kill the primary; once a replica is promoted, start the killed server as its replica."""
        dead = self._set.kill_primary()
        self._set.wait_for_failover(FAILOVER_SECONDS)
        self._set.rejoin(dead)

    def close(self) -> None:
        """End all of them."""
        self._set.close()
        shutil.rmtree(self._directory)


def trials(seed: int) -> Iterator[Trial]:
    """Yield the only trial of this module."""
    yield sentinel(seed, Size())


def sentinel(seed: int, size: Size) -> Trial:
    """Kill the primary several times."""
    rng = random.Random(f"sentinel {seed}")
    started = time.monotonic()
    with (
        open_testbed(SETTINGS, slow_scenario(seed), ReplicatedStore()) as testbed,
        open_fleet(testbed, size.workers) as fleet,
        Load(testbed.producer, rng, size.imports, size.messages_per_second) as load,
    ):
        testbed.faults["duplicates"] = len(load.duplicates)
        fleet.pick(rng)
        for _ in range(size.failovers):
            _fail_over(testbed, rng)
        load.send_again()
        wait_until(lambda: load.is_sent, "everything is sent again", FAILOVER_SECONDS)
        testbed.outcomes.recount()
        return check_trial("sentinel", testbed, load, started, size.imports)


def _fail_over(testbed: Testbed, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 8))
    testbed.store.kill_and_restart()
    testbed.faults["failovers"] += 1
    testbed.outcomes.recount()
    print(
        f"  {testbed.outcomes.over():,} over, {testbed.faults['failovers']} failovers", flush=True
    )
