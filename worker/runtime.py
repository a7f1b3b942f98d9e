"""One event loop per process, and the objects that use it. Only this module connects them.

Celery is synchronous, but the store and AWS are asynchronous. They meet only in `Runtime.run`.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import structlog
from celery import Celery
from redis.asyncio import Redis

from config.settings import Settings, load_settings
from worker.announcer.celery import CeleryAnnouncer
from worker.domain.preflight import Mode
from worker.engine.admit import Admitter
from worker.engine.advance import Advancer
from worker.engine.own_clock import OwnClock
from worker.engine.preflight import Preflight
from worker.metrics.measurements import Measurements
from worker.metrics.registry import recorder_of_process
from worker.operations.accounts import Accounts
from worker.operations.aws import Aws
from worker.operations.registry import OPERATIONS
from worker.operations.requests_queue import RequestsQueue
from worker.parameters import policy_of, store_config
from worker.store.broker import keep_time
from worker.store.connection import connect
from worker.store.messages import ImportsQueue
from worker.store.overview import Overview, read_overview
from worker.store.requests import RequestsStream
from worker.store.store import ImportStore
from worker.tracing.switch import open_tracing

log = structlog.get_logger()

T = TypeVar("T")

PUBLISHED_SECONDS: Final = 15.0


class Runtime:
    """This process's event loop on its own thread, and the objects that use it."""

    def __init__(self, settings: Settings, app: "Celery", hostname: str | None = None) -> None:
        self.settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._redis = connect(settings.redis_url)
        self.measurements = Measurements(recorder_of_process())
        self.tracing = open_tracing(hostname or socket.gethostname(), settings.event_source)
        self._accounts = Accounts(settings.accounts)
        self._aws = self._make_aws()
        self.store = ImportStore(self._redis, store_config(settings), self.measurements)
        consumer = f"{hostname or socket.gethostname()}-{os.getpid()}"
        self.requests = RequestsStream(self._redis, consumer)
        self.requests_queue = self._make_requests_queue()
        self._broker: Redis | None = None
        self.messages: ImportsQueue | None = None
        if settings.broker_is_redis:
            self._broker = connect(settings.celery_broker_url)
            self.messages = ImportsQueue(self._broker, self.measurements)
            keep_time(self.messages.now)
        note_done, note_failed = self.store.note_tasks_done, self.measurements.announcement_failed
        self.announcer = CeleryAnnouncer(app, OPERATIONS.tasks, note_done, hostname, note_failed)
        seen = (self.announcer, self.measurements, self.tracing)
        self.admitter = Admitter(OPERATIONS, self.store, self._accounts, self._aws, *seen)
        self.own_clock = OwnClock()
        remote = OPERATIONS.bind(self._aws)
        self.advancer = Advancer(
            remote,
            self.store,
            self.announcer,
            policy_of(settings),
            settings.lease_seconds,
            self.own_clock,
            observer=self.measurements,
            tracer=self.tracing,
            preflight=Preflight(remote, Mode(settings.preflight), settings.preflight_seconds),
        )
        self._thread.start()

    @property
    def duties(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Steps, by name, that the conductor repeats. They may be cancelled while they wait."""
        return {"publish_accounts": self._publish_accounts}

    async def prepare(self) -> None:
        """Prepare calls, on the loop."""
        await self._aws.warm_up()

    async def _publish_accounts(self) -> None:
        """Tell the store which accounts this worker accepts; its configuration may change."""
        await self.store.publish_accounts(self._accounts.accepted())
        await asyncio.sleep(PUBLISHED_SECONDS)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; callable from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def run_within(self, coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
        """Do the same; raise TimeoutError after `seconds`, even if the loop hangs."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds)
        finally:
            future.cancel()

    async def overview(self) -> Overview:
        """Read the store as a whole. Raises `redis.exceptions.RedisError`."""
        return await read_overview(self._redis)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call a function on the loop, soon; callable from any thread."""
        self._loop.call_soon_threadsafe(callback)

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Begin a step on the loop without waiting for it; a failure is logged."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.add_done_callback(_log_failure)

    def close(self) -> None:
        """Close every connection and end the loop."""
        self.run(self.announcer.drain())
        self.announcer.close()
        self.run(self._close_connections())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.tracing.close()

    def _make_requests_queue(self) -> RequestsQueue | None:
        url = self.settings.sqs_requests_url
        return RequestsQueue(url, self.measurements.called_queue) if url else None

    def _make_aws(self) -> Aws:
        return Aws(
            self.settings.call_timeout_seconds,
            self.settings.max_in_flight,
            self.settings.acknowledged_seconds,
            self._called,
            self._accounts.is_allowed,
        )

    def _called(self, account: str, region: str, method: str, status: int, seconds: float) -> None:
        self.measurements.called(account, region, method, status, seconds)
        self.tracing.called(account, region, method, status, seconds)

    async def _close_connections(self) -> None:
        await self._aws.close()
        if self.requests_queue is not None:
            await self.requests_queue.close()
        await self._redis.aclose()
        if self._broker is not None:
            await self._broker.aclose()


def _log_failure(future: "Future[Any]") -> None:
    if not future.cancelled() and (error := future.exception()):
        log.warning("step.failed", error=str(error))


class _Process:
    """The runtime of this process; a forked child creates its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None
        self._pid = 0

    def runtime(self, app: "Celery", hostname: str | None = None) -> Runtime:
        with self._lock:
            if self._runtime is None or self._pid != os.getpid():
                self._runtime = Runtime(load_settings(), app, hostname)
                self._pid = os.getpid()
            return self._runtime

    def close(self) -> None:
        with self._lock:
            if self._runtime is not None and self._pid == os.getpid():
                self._runtime.close()
            self._runtime = None


_process = _Process()
runtime_of_process = _process.runtime
close_runtime = _process.close
