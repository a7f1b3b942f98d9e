"""What tests share: real servers, a real worker process, waiting for conditions."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from celery import Celery
from redis import Redis

from worker.sandbox.scenario import Credentials, Scenario, ScriptedTarget
from worker.sandbox.server import SandboxServer
from worker.store.keys import CATALOGUE, Lifetime

T = TypeVar("T")

PROJECT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
ACCESS_KEY = "AKIATESTDEFAULT00000"
WAIT_SECONDS = 20.0


def wait_until(predicate: Callable[[], T], description: str, seconds: float = WAIT_SECONDS) -> T:
    """Return the first truthy value of `predicate`, or fail saying what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := predicate():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s in vain until {description}")


def free_port() -> str:
    """Return a port of this machine that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def members(app: str = "d1", **more: Any) -> dict[str, Any]:
    """Return the members of a valid request."""
    return {
        "appId": app,
        "backendEnvironmentName": "staging",
        "userPoolId": "us-east-1_AbCdEf123",
        "webClientId": "webclient",
        "nativeClientId": "nativeclient",
        **more,
    }


def assert_nothing_left_behind(redis: Any) -> None:
    """Fail on a key of ours that is not catalogued, or that stays though nobody needs it."""
    for name in redis.keys("imports:*"):
        found = [
            key
            for key in CATALOGUE
            if name == key.name or (key.name.endswith(":") and name.startswith(key.name))
        ]
        assert found, f"{name} is not in the catalogue"
        assert redis.type(name) == found[0].type, name
        if found[0].lifetime is Lifetime.RETENTION:
            assert redis.pttl(name) > 0, f"{name} would stay for ever"
        assert found[0].lifetime is not Lifetime.EMPTIED, f"{name} holds what nobody needs"


class Sandbox:
    """The sandbox on a thread of its own, for tests that block."""

    def __init__(self, scenario: Scenario | None = None) -> None:
        self._server = SandboxServer(scenario)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._server.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._server.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where an SDK finds the sandbox."""
        return self._server.url

    def reset(self, scenario: Scenario) -> None:
        """Forget everything and play another scenario."""
        self._do(lambda: self._server.reset(scenario))

    def script(self, app: str, **target: Any) -> None:
        """Say what happens to one app's imports."""
        scripted = ScriptedTarget.model_validate({"app_id": app, **target})
        self._do(lambda: self._server.script(scripted))

    def set_credentials(self, account: str, credentials: Credentials) -> None:
        """Let an account's credentials be good or bad from now on."""
        self._do(lambda: self._server.set_credentials(account, credentials))

    def calls(self, operation: str = "ImportBackendAuth", app: str = "") -> list[dict[str, Any]]:
        """Return what was really asked."""
        calls: list[dict[str, Any]] = self.snapshot()["calls"]
        return [
            call
            for call in calls
            if call["operation"] == operation and (call["target"] or "").startswith(app)
        ]

    def jobs(self, app: str = "") -> list[dict[str, Any]]:
        """Return the jobs that really exist."""
        jobs: list[dict[str, Any]] = self.snapshot()["jobs"]
        return [job for job in jobs if job["target"].startswith(f"{app}/" if app else "")]

    def snapshot(self) -> dict[str, Any]:
        """Return the whole ledger."""
        return dict(json.loads(json.dumps(self._do(self._server.snapshot))))

    def _do(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return self._run(call())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


class Worker:
    """A real `celery -A worker worker`, started with nothing but environment variables.

    `app` names another Celery application, `program` a module that is run in place of `celery`,
    `options` are Celery's own.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        app: str = "worker",
        program: str = "",
        options: Sequence[str] = (),
    ) -> None:
        self._log = log
        celery = [BIN / "python", "-m", program] if program else [BIN / "celery"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*celery, "-A", app, "worker", "--hostname", f"{log.stem}@%h", *options],
                cwd=PROJECT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """Everything that the worker has logged."""
        return self._log.read_text(errors="replace")

    def wait_until_ready(self) -> Self:
        """Wait until the worker takes work."""
        wait_until(lambda: " ready." in self.log or self._died(), "the worker is ready")
        return self

    def stop(self, seconds: float = WAIT_SECONDS) -> int:
        """Ask the worker to stop, as an orchestrator does; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kill the worker where it stands."""
        self.process.kill()
        self.process.wait(WAIT_SECONDS)

    def _died(self) -> bool:
        assert self.process.poll() is None, f"the worker died:\n{self.log[-3000:]}"
        return False


class CommandLine:
    """`amplify-import` in an environment of its own."""

    def __init__(self, store_url: str) -> None:
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "IMPORTS_REDIS_URL": store_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __call__(self, *arguments: str | Path, stdin: str = "", **settings: str) -> Any:
        """Run a command to its end."""
        done = subprocess.run(
            [BIN / "amplify-import", *arguments],
            env={**self.environment, **settings},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        return done

    def each(self, *commands: tuple[str | Path, ...], **settings: str) -> list[Any]:
        """Run independent commands side by side."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda arguments: self(*arguments, **settings), commands))

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command beside the test; it is killed at the end."""
        with subprocess.Popen(
            [BIN / "amplify-import", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def environment_for(sandbox: Sandbox, store_url: str, **settings: str) -> dict[str, str]:
    """Return the environment of a worker against the sandbox, quick enough for tests."""
    return {
        "AWS_ENDPOINT_URL_AMPLIFYBACKEND": sandbox.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "IMPORTS_REDIS_URL": store_url,
        "IMPORTS_START_RATE": "200",
        "IMPORTS_START_BURST": "50",
        "IMPORTS_POLL_RATE": "200",
        "IMPORTS_POLL_BURST": "50",
        "IMPORTS_POLL_MIN_SECONDS": "0.1",
        "IMPORTS_POLL_MAX_SECONDS": "0.5",
        "IMPORTS_SETTLE_SECONDS": "0.2",
        "IMPORTS_LEASE_SECONDS": "2",
        **settings,
    }


class Producer:
    """A producer that knows nothing of our code: a bare Celery client and a Redis client."""

    def __init__(self, broker_url: str, store_url: str) -> None:
        self.store_url = store_url
        self.app = Celery("producer", broker=broker_url, backend=store_url, set_as_current=False)
        self.redis: Redis = Redis.from_url(store_url, decode_responses=True)

    def send(self, request: Mapping[str, Any], **options: Any) -> Any:
        """Enqueue one import."""
        return self.app.send_task(
            "imports.import_backend_auth", kwargs=dict(request), queue="imports", **options
        )

    def send_batch(self, batch_id: str, requests: list[Any], **more: Any) -> Any:
        """Enqueue one message of a batch."""
        kwargs = {"batchId": batch_id, "requests": requests, **more}
        return self.app.send_task("imports.import_batch", kwargs=kwargs, queue="imports")

    def add(self, request: Any) -> str:
        """Put a request on the stream; text goes in as it is."""
        text = request if isinstance(request, str | bytes) else json.dumps(request)
        return str(self.redis.xadd("imports:requests", {"request": text}))

    def events(self, *types: str, import_id: str = "") -> list[dict[str, Any]]:
        """Return the events so far, of the given types and import."""
        entries: Any = self.redis.xrange("imports:events")
        events = [json.loads(fields["event"]) for _, fields in entries]
        return [
            event
            for event in events
            if (not types or event["type"] in types)
            and import_id in ("", event["data"].get("importId"))
        ]

    def wait_for_event(self, type_: str, **where: Any) -> dict[str, Any]:
        """Wait for an event whose data hold `where`."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.events(type_) if where.items() <= e["data"].items()]

        return wait_until(found, f"there is an event {type_} with {where}")[0]

    def close(self) -> None:
        """Let go of the connections."""
        self.app.close()
        self.redis.close()


@contextmanager
def producing(broker_url: str, store_url: str) -> Iterator[Producer]:
    """Give a producer for a while."""
    producer = Producer(broker_url, store_url)
    try:
        yield producer
    finally:
        producer.close()
