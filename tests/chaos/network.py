"""Network: the ways to the store and to the API stall, are cut, refuse and are slow, under load."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tests.chaos.freeze import slow_scenario
from tests.chaos.judge import judge
from tests.chaos.load import Load
from tests.chaos.stage import Stage, fleet_of, staged
from tests.chaos.trial import Trial
from tests.proxy import Proxy

SETTINGS: Final = {
    "IMPORTS_LEASE_SECONDS": "6",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "20",
}
WHAT: Final = ("stalls", "cuts", "refusals", "delays")
LASTING_SECONDS: Final = (0.5, 7.0)
"""How long one lasts: up to longer than a lease."""

LONG_SECONDS: Final = 18
"""How long one stall of the store lasts: longer than the workers wait for its answers."""

PAUSES_SECONDS: Final = (0.5, 3.0)
DELAY_SECONDS: Final = 0.1
CUT_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    imports: int = 600
    messages_per_second: float = 8
    workers: int = 2
    faults: int = 12


def trials(seed: int) -> Iterator[Trial]:
    """Yield the one trial of this module."""
    yield network(seed, Size())


def network(seed: int, size: Size) -> Trial:
    """Put a proxy into each way, and let them be bad in turn."""
    dice = random.Random(f"network {seed}")
    started = time.monotonic()
    with (
        staged(SETTINGS, slow_scenario(seed)) as stage,
        Proxy(_port_of(stage.store.url)) as to_store,
        Proxy(_port_of(stage.sandbox.url)) as to_api,
    ):
        stage.environment["IMPORTS_REDIS_URL"] = to_store.url
        stage.environment["AWS_ENDPOINT_URL_AMPLIFYBACKEND"] = f"http://127.0.0.1:{to_api.port}"
        with (
            fleet_of(stage, size.workers) as fleet,
            Load(stage.producer, dice, size.imports, size.messages_per_second) as load,
        ):
            stage.faults["duplicates"] = len(load.duplicates)
            fleet.one(dice)
            ways = {"store": to_store, "API": to_api}
            _be_bad(stage, ways, dice, size)
            return judge("network", stage, load, started, size.imports)


def _be_bad(stage: Stage, ways: dict[str, Proxy], dice: random.Random, size: Size) -> None:
    faults = [(dice.choice(list(ways)), what) for what in WHAT * (size.faults // len(WHAT))]
    dice.shuffle(faults)
    for where, what in faults:
        _suffer(stage, ways[where], dice, f"{what} of the {where}", dice.uniform(*LASTING_SECONDS))
    _suffer(stage, ways["store"], dice, "stalls of the store", LONG_SECONDS)


def _suffer(stage: Stage, way: Proxy, dice: random.Random, what: str, seconds: float) -> None:
    time.sleep(dice.uniform(*PAUSES_SECONDS))
    print(f"  {stage.outcomes.over():,} over, {what} for {seconds:.1f} s", flush=True)
    stage.faults[what] += 1
    if what.startswith("stalls"):
        way.stall()
    elif what.startswith("cuts"):
        way.cut(dice, CUT_SHARE)
    elif what.startswith("refusals"):
        way.refuse()
    else:
        way.delay_seconds = DELAY_SECONDS
    time.sleep(seconds)
    way.delay_seconds = 0.0
    way.flow()


def _port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port, url
    return port
