"""Ingress: workers are killed while messages come in by the Celery doors; none may be lost.

Two workers, one of them killed again and again at a random moment, and messages sent all the while.
At the end every message must have become an import, once. The lane starts next to nothing, so that
admission is all that happens.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, Self

from tests.chaos.judge import left_in_queues, patiently
from tests.chaos.stage import Stage, fleet_of, staged
from tests.chaos.trial import Trial, broken_promises
from tests.support import Producer, members

KILLS: Final = 40
MESSAGES_PER_SECOND: Final = 40
WORKERS: Final = 2
LIVES_SECONDS: Final = (0.0, 1.0)
"""How long a worker that is ready lives on."""

TOLD_KILLS: Final = 10
SETTINGS: Final = {"IMPORTS_START_RATE": "0.001", "IMPORTS_START_BURST": "1"}


class Sender:
    """Sends messages on a thread until it is told to stop."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
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
        while not self._stopping.wait(1 / MESSAGES_PER_SECOND):
            self.sent.append(self._producer.send(members(f"d{len(self.sent)}")).id)


def trials(seed: int, kills: int = KILLS) -> Iterator[Trial]:
    """Yield the one trial of this module."""
    dice = random.Random(f"ingress {seed}")
    started = time.monotonic()
    with staged(SETTINGS) as stage, fleet_of(stage, WORKERS) as fleet:
        with Sender(stage.producer) as sender:
            for kill in range(1, kills + 1):
                worker = fleet.one(dice)
                time.sleep(dice.uniform(*LIVES_SECONDS))
                fleet.kill(worker)
                fleet.add()
                if kill % TOLD_KILLS == 0:
                    print(f"  {kill} kills, {len(sender.sent):,} messages", flush=True)
        violations = [
            *patiently(lambda: left_in_queues(stage.producer.redis)),
            *_not_admitted_once(stage, sender.sent),
            *stage.defects(),
            *broken_promises(stage.producer),
        ]
        stage.keep_logs = bool(violations)
        seconds = time.monotonic() - started
        yield Trial("ingress", stage.told_faults(), len(sender.sent), seconds, violations)


def _not_admitted_once(stage: Stage, sent: list[str]) -> Iterator[str]:
    events = stage.producer.events("import.accepted")
    accepted = Counter(event["data"]["importId"] for event in events)
    for import_id in sent:
        if accepted[import_id] != 1:
            yield f"message {import_id} was admitted {accepted[import_id]} times"
