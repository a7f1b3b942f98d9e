"""The load of a trial: imports through all entry points, sent during the faults, some of them
twice."""

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Self

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.names import BATCH_TASK, IMPORTS_QUEUE
from tests.support import Producer, members, storage_members
from worker.domain.requests import derive_import_id

MESSAGE_REQUESTS: Final = 25
BATCH_REQUESTS: Final = 50
DUPLICATE_SHARE: Final = 0.1
"""The share of messages that are sent twice."""

MISSING_SHARE: Final = 0.02
"""The share of imports whose app does not exist, by the scenarios' `missing_app_prefixes`."""

STORAGE_SHARE: Final = 0.2
"""The share of imports that import a bucket."""

REGIONS: Final = ("us-east-1", "eu-central-1")
PRIORITIES: Final = (0, 3, 6, 9)
SEND_AGAIN_SECONDS: Final = 0.2

Message = Callable[[], object]


class Load:
    """Sends messages on a thread; repeats a message until it has been sent."""

    def __init__(
        self, producer: Producer, rng: random.Random, imports: int, per_second: float
    ) -> None:
        self._producer = producer
        self._dice = rng
        self._pause = 1 / per_second
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send_all)
        self.import_ids: list[str] = []
        self.batches: list[str] = []
        self.batch_tasks: list[str] = []
        messages = [*self._tasks(imports * 2 // 5), *self._entries(imports * 3 // 10)]
        messages += self._batches(imports - len(messages))
        self.duplicates = [m for m in messages if rng.random() < DUPLICATE_SHARE]
        self._messages = [*messages, *self.duplicates]
        rng.shuffle(self._messages)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def is_sent(self) -> bool:
        """Whether all messages are sent."""
        return not self._thread.is_alive()

    def send_again(self) -> None:
        """Send everything again, as producers do when their broker has lost what it accepted."""
        self._thread.join()
        self._thread = threading.Thread(target=self._send_all)
        self._thread.start()

    def _tasks(self, imports: int) -> Iterator[Message]:
        for n in range(imports):
            self.import_ids.append(f"task-{n}")
            priority = self._dice.choice(PRIORITIES)
            request = self._request(f"t{n}")
            yield partial(self._producer.send, request, task_id=f"task-{n}", priority=priority)

    def _entries(self, imports: int) -> Iterator[Message]:
        for n in range(imports):
            self.import_ids.append(f"entry-{n}")
            yield partial(self._producer.add, {"importId": f"entry-{n}", **self._request(f"e{n}")})

    def _batches(self, imports: int) -> Iterator[Message]:
        for start in range(0, imports, BATCH_REQUESTS):
            batch_id = f"batch-{start}"
            total = min(BATCH_REQUESTS, imports - start)
            self.batches.append(batch_id)
            self.import_ids += [derive_import_id(batch_id, n) for n in range(total)]
            requests = [self._request(f"b{start + n}") for n in range(total)]
            for offset in range(0, total, MESSAGE_REQUESTS):
                part = requests[offset : offset + MESSAGE_REQUESTS]
                yield self._part_of(batch_id, part, offset=offset, total=total)

    def _part_of(self, batch_id: str, requests: list[Any], **more: int) -> Message:
        task_id = f"{batch_id}-{more['offset']}"
        self.batch_tasks.append(task_id)
        kwargs = {"batchId": batch_id, "requests": requests, **more}
        return partial(
            self._producer.app.send_task,
            BATCH_TASK,
            kwargs=kwargs,
            queue=IMPORTS_QUEUE,
            task_id=task_id,
        )

    def _request(self, name: str) -> dict[str, Any]:
        prefix = "d0missing" if self._dice.random() < MISSING_SHARE else "d"
        region = self._dice.choice(REGIONS)
        of = storage_members if self._dice.random() < STORAGE_SHARE else members
        return of(f"{prefix}{name}", region=region)

    def _send_all(self) -> None:
        for message in self._messages:
            while not self._stopping.is_set() and not _is_sent(message):
                self._stopping.wait(SEND_AGAIN_SECONDS)
            if self._stopping.wait(self._pause):
                return


def _is_sent(message: Message) -> bool:
    try:
        message()
    except (RedisError, OperationalError, OSError):
        return False  # the caller repeats it, which may deliver it twice
    return True
