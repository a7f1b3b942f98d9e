"""The store, the broker or the network fails: workers wait, then continue without loss or
repetition.

Servers and workers are real. A `Load` is imports through all entry points, and the checks of what
became of them.
"""

import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.proxy import Proxy
from tests.support import CommandLine, Sandbox, Worker, environment_for, members, wait_until
from tests.support.servers import Certificates, RetryingProducer, SentinelSet, Server, tls_program
from worker.store.connection import SOCKET_TIMEOUT_SECONDS

TERMINAL = {f"import.{state}" for state in ("succeeded", "failed", "rejected", "timed_out")}
SLOW_STARTS = {"IMPORTS_START_RATE": "12", "IMPORTS_START_BURST": "2"}
"""So slow that an outage meets imports in every state."""

StartWorker = Callable[..., Worker]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A single server, which survives a kill."""
    with Server(tmp_path / "server") as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """The network between workers and that server."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def producer(server: Server) -> Iterator[RetryingProducer]:
    """A producer that is connected directly to that server."""
    with RetryingProducer(server.url) as producer:
        yield producer


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[SentinelSet]:
    """A primary, a replica and three Sentinels."""
    with SentinelSet(tmp_path / "set", password="s3cr/t;@") as sentinels:
        yield sentinels


@pytest.fixture
def start_worker(sandbox: Sandbox, tmp_path: Path) -> Iterator[StartWorker]:
    """A function that starts real workers on a server of any URL; each must stop when asked."""
    workers: list[Worker] = []

    def start(url: str, **settings: str) -> Worker:
        environment = environment_for(sandbox, url, **{**SLOW_STARTS, **settings})
        worker = Worker(environment, tmp_path / f"worker-{uuid.uuid4().hex[:6]}.log")
        workers.append(worker)
        return worker.wait_until_ready()

    yield start
    for worker in workers:
        worker.stop(60)


class Load:
    """Imports by task, batch and stream."""

    def __init__(self, producer: RetryingProducer, sandbox: Sandbox, count: int, name: str) -> None:
        self._producer = producer
        self._sandbox = sandbox
        self._name = name
        self.tasks = [producer.send(members(f"d{name}task{n}")) for n in range(count)]
        requests = [members(f"d{name}batch{n}") for n in range(count)]
        producer.send_batch(name, requests)
        for n in range(count):
            producer.add(members(f"d{name}stream{n}"))
        self.apps = {
            f"d{name}{door}{n}" for door in ("task", "batch", "stream") for n in range(count)
        }

    def has_started(self, count: int = 5) -> bool:
        """Return whether at least this many of its jobs were started."""
        jobs = self._sandbox.jobs()
        return len([job for job in jobs if job["target"].startswith(f"d{self._name}")]) >= count

    def wait_until_over(self, seconds: float = 60) -> None:
        """Wait until everything has ended, and check that it ended once and successfully."""
        wait_until(lambda: self._ended().keys() >= self.apps, f"all of {self._name} ends", seconds)
        assert set(self._ended().values()) == {1}, "one terminal event each"
        jobs = Counter(job["target"] for job in self._sandbox.jobs())
        doubled = {target: n for target, n in jobs.items() if n > 1}
        assert not doubled, "one job per target"
        for task in self.tasks:
            wait_until(
                partial(self._producer.has_succeeded, task.id),
                f"task {task.id} has its result",
                seconds,
            )

    def _ended(self) -> Counter[str]:
        return Counter(
            event["data"]["appId"]
            for event in self._producer.events(*TERMINAL)
            if event["data"]["appId"] in self.apps
        )


@pytest.mark.timeout(300)
def test_workers_switch_to_the_replica_of_a_killed_primary(
    sentinels: SentinelSet, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    with RetryingProducer(sentinels.url) as producer:
        worker = start_worker(sentinels.url)
        before = Load(producer, sandbox, 8, "before")
        wait_until(before.has_started, "some have started")
        sentinels.wait_until_replicated()
        old = sentinels.primary
        sentinels.kill_primary()
        sentinels.wait_for_failover()
        after = Load(producer, sandbox, 4, "after")
        before.wait_until_over(150)
        after.wait_until_over(60)
        assert "store.unreachable" in worker.log
        assert "store.replica_missing" in worker.log
        sentinels.rejoin(old)
        Load(producer, sandbox, 2, "later").wait_until_over()


@pytest.mark.timeout(300)
def test_workers_switch_to_the_replica_of_a_demoted_primary(
    sentinels: SentinelSet, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    with RetryingProducer(sentinels.url) as producer:
        start_worker(sentinels.url)
        before = Load(producer, sandbox, 8, "before")
        wait_until(before.has_started, "some have started")
        old = sentinels.primary
        sentinels.fail_over()
        # Until it is demoted, the old primary accepts messages that are lost.
        wait_until(lambda: sentinels.role(old) == "slave", "it is demoted", 60)
        after = Load(producer, sandbox, 4, "after")
        before.wait_until_over(150)
        after.wait_until_over(60)


def test_doctor_names_the_primary_and_counts_its_replicas(sentinels: SentinelSet) -> None:
    report = json.loads(CommandLine(sentinels.url)("doctor", "--json").stdout)
    (failover,) = [check for check in report["checks"] if check["name"] == "failover"]
    assert failover["verdict"] == "ok"
    assert failover["detail"] == f"127.0.0.1:{sentinels.primary.port} is the primary, 1 replicas"
    assert "s3cr" not in json.dumps(report)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """The certificates of servers with TLS."""
    return Certificates(tmp_path / "certificates")


@pytest.fixture
def tls_server(tmp_path: Path, certificates: Certificates) -> Iterator[Server]:
    """A server that speaks only TLS."""
    program = tls_program()
    with Server(tmp_path / "tls", program=program, certificates=certificates) as server:
        yield server


@pytest.mark.timeout(300)
def test_workers_switch_to_the_replica_over_tls_as_well(
    tmp_path: Path, certificates: Certificates, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    with (
        SentinelSet(tmp_path / "set", certificates=certificates) as sentinels,
        RetryingProducer(sentinels.url) as producer,
    ):
        start_worker(sentinels.url)
        Load(producer, sandbox, 3, "before").wait_until_over()
        sentinels.wait_until_replicated()
        sentinels.kill_primary()
        sentinels.wait_for_failover()
        Load(producer, sandbox, 3, "after").wait_until_over(60)


def test_everything_works_over_tls(
    tls_server: Server, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    with RetryingProducer(tls_server.url) as producer:
        start_worker(tls_server.url)
        Load(producer, sandbox, 3, "tls").wait_until_over()


def test_a_certificate_that_is_not_trusted_is_named(
    tls_server: Server, certificates: Certificates, sandbox: Sandbox, tmp_path: Path
) -> None:
    url = tls_server.url.replace(str(certificates.authority), str(certificates.other_authority))
    worker = Worker(environment_for(sandbox, url), tmp_path / "worker.log")
    try:
        wait_until(lambda: "store.unreachable" in worker.log, "the worker says so")
        wait_until(lambda: "Cannot connect to rediss" in worker.log, "so does Celery")
        assert worker.log.count("CERTIFICATE_VERIFY_FAILED") >= 2
    finally:
        worker.stop(60)
    done = CommandLine(url)("doctor")
    assert "CERTIFICATE_VERIFY_FAILED" in done.stdout


def test_workers_reconnect_to_a_server_that_was_killed_and_started_again(
    server: Server, producer: RetryingProducer, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    start_worker(server.url)
    load = Load(producer, sandbox, 8, "load")
    for started in (3, 10):
        wait_until(partial(load.has_started, started), "some have started")
        server.kill()
        time.sleep(1)
        server.start()
    load.wait_until_over()
    Load(producer, sandbox, 2, "later").wait_until_over()


def test_workers_reconnect_to_a_broker_that_died_with_unacknowledged_messages(
    proxy: Proxy,
    producer: RetryingProducer,
    sandbox: Sandbox,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    with (
        Server(tmp_path / "broker") as broker,
        RetryingProducer(broker.url) as sender,
    ):
        worker = start_worker(proxy.url, IMPORTS_BROKER_URL=broker.url)
        proxy.stall()  # a running task waits for the store
        tasks = [sender.send(members(f"dheld{n}")) for n in range(3)]
        wait_until(lambda: worker.log.count("] received") == 3, "the tasks are running")
        broker.kill()
        time.sleep(1)
        broker.start()
        proxy.flow()
        for task in (*tasks, sender.send(members("dlater"))):
            wait_until(partial(producer.has_succeeded, task.id), "it ends", 60)
        assert len(sandbox.jobs()) == 4
        worker.stop(60)


def test_workers_wait_for_memory_and_lose_nothing(
    server: Server, producer: RetryingProducer, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    worker = start_worker(server.url)
    load = Load(producer, sandbox, 8, "load")
    wait_until(load.has_started, "some have started")
    server.set(maxmemory=1)
    wait_until(lambda: "store.unreachable" in worker.log, "the worker says so")
    time.sleep(5)
    server.set(maxmemory=0)
    load.wait_until_over()
    Load(producer, sandbox, 2, "later").wait_until_over()


def test_workers_wait_for_a_server_that_is_temporarily_a_replica(
    server: Server,
    producer: RetryingProducer,
    sandbox: Sandbox,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    with (
        Server(tmp_path / "another") as another,
        another.client() as there,
        server.client() as here,
    ):
        worker = start_worker(server.url)
        load = Load(producer, sandbox, 8, "load")
        wait_until(load.has_started, "some have started")
        there.replicaof("127.0.0.1", server.port)
        wait_until(
            lambda: there.info("replication")["master_link_status"] == "up",
            "the server is a replica",
        )
        there.replicaof("NO", "ONE")
        here.replicaof("127.0.0.1", another.port)
        wait_until(lambda: "read only replica" in worker.log, "the worker is refused")
        time.sleep(5)
        here.replicaof("NO", "ONE")
        load.wait_until_over()
        Load(producer, sandbox, 2, "later").wait_until_over()


def test_workers_wait_out_a_network_that_drops_everything_for_a_while(
    proxy: Proxy, producer: RetryingProducer, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    start_worker(proxy.url)
    load = Load(producer, sandbox, 8, "load")
    wait_until(load.has_started, "some have started")
    proxy.stall()
    time.sleep(SOCKET_TIMEOUT_SECONDS + 5)
    proxy.flow()
    load.wait_until_over(90)
    Load(producer, sandbox, 2, "later").wait_until_over()


def test_connections_that_are_cut_at_random_are_reopened(
    proxy: Proxy, producer: RetryingProducer, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    rng = random.Random(1)
    start_worker(proxy.url)
    load = Load(producer, sandbox, 8, "load")
    for _ in range(20):
        time.sleep(rng.uniform(0, 0.5))
        proxy.cut(rng, rng.random())
    proxy.refuse()
    time.sleep(3)
    proxy.flow()
    load.wait_until_over(90)
    Load(producer, sandbox, 2, "later").wait_until_over()


def test_a_connection_that_dies_silently_is_replaced(
    proxy: Proxy, producer: RetryingProducer, sandbox: Sandbox, start_worker: StartWorker
) -> None:
    start_worker(proxy.url)
    Load(producer, sandbox, 2, "before").wait_until_over()
    proxy.forget()
    Load(producer, sandbox, 2, "after").wait_until_over(90)
