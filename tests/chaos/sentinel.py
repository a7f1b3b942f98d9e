"""Sentinel: the store's primary is killed under load, and a replica takes its place.

What the primary had not passed on is forgotten, events and messages too. So the producer sends
everything again, as a producer must who was told nothing of a failover; what was done must not be
done twice.
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
from tests.chaos.judge import judge
from tests.chaos.load import Load
from tests.chaos.stage import Stage, fleet_of, staged
from tests.chaos.trial import Trial
from tests.servers import SentinelSet
from tests.support import wait_until

FAILOVER_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

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
        """Kill the primary; once a replica is promoted, start the dead one as its replica."""
        dead = self._set.kill_primary()
        self._set.wait_for_failover(FAILOVER_SECONDS)
        self._set.rejoin(dead)

    def close(self) -> None:
        """End all of them."""
        self._set.close()
        shutil.rmtree(self._directory)


def trials(seed: int) -> Iterator[Trial]:
    """Yield the one trial of this module."""
    yield sentinel(seed, Size())


def sentinel(seed: int, size: Size) -> Trial:
    """Let the primary die now and then."""
    dice = random.Random(f"sentinel {seed}")
    started = time.monotonic()
    with (
        staged(SETTINGS, slow_scenario(seed), ReplicatedStore()) as stage,
        fleet_of(stage, size.workers) as fleet,
        Load(stage.producer, dice, size.imports, size.messages_per_second) as load,
    ):
        stage.faults["duplicates"] = len(load.duplicates)
        fleet.one(dice)
        for _ in range(size.failovers):
            _fail_over(stage, dice)
        load.send_again()
        wait_until(lambda: load.is_sent, "everything is sent again", FAILOVER_SECONDS)
        stage.outcomes.recount()
        return judge("sentinel", stage, load, started, size.imports)


def _fail_over(stage: Stage, dice: random.Random) -> None:
    time.sleep(dice.uniform(2, 8))
    stage.store.kill_and_restart()
    stage.faults["failovers"] += 1
    stage.outcomes.recount()
    print(f"  {stage.outcomes.over():,} over, {stage.faults['failovers']} failovers", flush=True)
