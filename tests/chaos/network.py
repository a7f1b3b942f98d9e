"""Network: the connections to the store and to the API stall, are cut, are refused and are slow."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tests.chaos.freeze import slow_scenario
from tests.chaos.load import Load
from tests.chaos.testbed import Testbed, open_fleet, open_testbed
from tests.chaos.trial import Trial
from tests.chaos.trial_checks import check_trial
from tests.proxy import Proxy

SETTINGS: Final = {
    "IMPORTS_LEASE_SECONDS": "6",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "20",
}
FAULTS: Final = ("stalls", "cuts", "refusals", "delays")
DURATION_SECONDS: Final = (0.5, 7.0)
"""How long a fault lasts: at most, longer than a lease."""

LONG_SECONDS: Final = 18
"""How long one stall of the store lasts: longer than the workers wait for an answer of it."""

PAUSES_SECONDS: Final = (0.5, 3.0)
DELAY_SECONDS: Final = 0.1
CUT_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the trial."""

    imports: int = 600
    messages_per_second: float = 8
    workers: int = 2
    faults: int = 12


def trials(seed: int) -> Iterator[Trial]:
    """Yield the only trial of this module."""
    yield network(seed, Size())


def network(seed: int, size: Size) -> Trial:
    """Put a proxy in front of the store and of the API, and inject faults into them."""
    rng = random.Random(f"network {seed}")
    started = time.monotonic()
    with (
        open_testbed(SETTINGS, slow_scenario(seed)) as testbed,
        Proxy(_port_of(testbed.store.url)) as to_store,
        Proxy(_port_of(testbed.sandbox.url)) as to_api,
    ):
        testbed.environment["IMPORTS_REDIS_URL"] = to_store.url
        testbed.environment["AWS_ENDPOINT_URL_AMPLIFYBACKEND"] = f"http://127.0.0.1:{to_api.port}"
        with (
            open_fleet(testbed, size.workers) as fleet,
            Load(testbed.producer, rng, size.imports, size.messages_per_second) as load,
        ):
            testbed.faults["duplicates"] = len(load.duplicates)
            fleet.pick(rng)
            proxies = {"store": to_store, "API": to_api}
            _inject_faults(testbed, proxies, rng, size)
            return check_trial("network", testbed, load, started, size.imports)


def _inject_faults(
    testbed: Testbed, proxies: dict[str, Proxy], rng: random.Random, size: Size
) -> None:
    faults = [(rng.choice(list(proxies)), what) for what in FAULTS * (size.faults // len(FAULTS))]
    rng.shuffle(faults)
    for where, what in faults:
        _inject_fault(
            testbed, proxies[where], rng, f"{what} of the {where}", rng.uniform(*DURATION_SECONDS)
        )
    _inject_fault(testbed, proxies["store"], rng, "stalls of the store", LONG_SECONDS)


def _inject_fault(
    testbed: Testbed, proxy: Proxy, rng: random.Random, what: str, seconds: float
) -> None:
    time.sleep(rng.uniform(*PAUSES_SECONDS))
    print(f"  {testbed.outcomes.over():,} over, {what} for {seconds:.1f} s", flush=True)
    testbed.faults[what] += 1
    if what.startswith("stalls"):
        proxy.stall()
    elif what.startswith("cuts"):
        proxy.cut(rng, CUT_SHARE)
    elif what.startswith("refusals"):
        proxy.refuse()
    else:
        proxy.delay_seconds = DELAY_SECONDS
    time.sleep(seconds)
    proxy.delay_seconds = 0.0
    proxy.flow()


def _port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port, url
    return port
