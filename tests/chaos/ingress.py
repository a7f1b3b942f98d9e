"""Ingress: workers are killed while messages arrive through Celery; none may be lost.

There are two workers, one of which is killed again and again at a random moment, and messages
arrive all the time. At the end every message must have become exactly one import. The lane's start
rate is close to zero, so that the trial tests admission only.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, Self

from tests.chaos.testbed import Testbed, open_fleet, open_testbed
from tests.chaos.trial import Trial, broken_promises
from tests.chaos.trial_checks import left_in_queues, wait_until_none
from tests.support import Producer, members

KILLS: Final = 40
MESSAGES_PER_SECOND: Final = 40
WORKERS: Final = 2
LIFETIME_SECONDS: Final = (0.0, 1.0)
"""How long a worker runs once it is ready."""

REPORT_KILLS: Final = 10
SETTINGS: Final = {"IMPORTS_START_RATE": "0.001", "IMPORTS_START_BURST": "1"}


class Sender:
    """Sends messages on a thread until its context ends."""

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
    """Yield the only trial of this module."""
    rng = random.Random(f"ingress {seed}")
    started = time.monotonic()
    with open_testbed(SETTINGS) as testbed, open_fleet(testbed, WORKERS) as fleet:
        with Sender(testbed.producer) as sender:
            for kill in range(1, kills + 1):
                worker = fleet.pick(rng)
                time.sleep(rng.uniform(*LIFETIME_SECONDS))
                fleet.kill(worker)
                fleet.add()
                if kill % REPORT_KILLS == 0:
                    print(f"  {kill} kills, {len(sender.sent):,} messages", flush=True)
        violations = [
            *wait_until_none(lambda: left_in_queues(testbed.producer.redis)),
            *_not_admitted_once(testbed, sender.sent),
            *testbed.defects(),
            *broken_promises(testbed.producer),
        ]
        testbed.keep_logs = bool(violations)
        seconds = time.monotonic() - started
        yield Trial("ingress", testbed.fault_summary(), len(sender.sent), seconds, violations)


def _not_admitted_once(testbed: Testbed, sent: list[str]) -> Iterator[str]:
    events = testbed.producer.events("import.accepted")
    accepted = Counter(event["data"]["importId"] for event in events)
    for import_id in sent:
        if accepted[import_id] != 1:
            yield f"message {import_id} was admitted {accepted[import_id]} times"
