"""Finds the subjects of an audit: everything in the store, or all that belongs to one batch."""

from collections.abc import AsyncIterator, Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from redis.asyncio import Redis

from worker.audit.promises import key_of
from worker.store.keys import (
    BATCH,
    DELAYED,
    HELD,
    HISTORY,
    IDEMPOTENCY,
    IMPORT,
    LATE,
    LEASES,
    MEMBERS,
    PARKED,
    POLLS,
    PREFIX,
    TARGET,
    TASKS,
    WAITING,
    catalogued,
    name_on,
)
from worker.store.records import spellings, values_of

T = TypeVar("T")

SCANNED_AT_ONCE: Final = 1000
READ_AT_ONCE: Final = 500
QUEUES: Final = frozenset({WAITING, DELAYED, POLLS, LATE, LEASES, PARKED, HELD})
TARGET_FIELDS: Final = ("account", "region", "app_id", "backend_environment_name")


class Look(StrEnum):
    """The kinds of subjects. One script reads each kind."""

    IMPORT = "import"
    BATCH = "batch"
    TARGET = "target"
    PARKED = "parked"
    LANE = "lane"
    KEY = "key"


class Subject(NamedTuple):
    """A subject to check. `queue` is the queue in which an import's id was found, '' if none.

    Names of keys are those of the catalogue.
    """

    look: Look
    name: str
    queue: str = ""


class Subjects:
    """Finds the subjects page by page.

    `late` collects the subjects that can be judged only after all others.
    """

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self.late: set[Subject] = set()

    async def of_store(self) -> AsyncIterator[list[Subject]]:
        """Yield the subjects of the whole store, page by page; add the late ones to `late`."""
        pattern = name_on(self._redis, f"{PREFIX}*")
        async for keys in paged(self._redis.scan_iter(match=pattern, count=SCANNED_AT_ONCE)):
            names = [catalogued(key) for key in keys]
            yield [subject for name in names for subject in self._subjects_of(name)]
            for key, queue in zip(keys, names, strict=True):
                if key_of(queue) in QUEUES:
                    async for entries in paged(self._redis.zscan_iter(key, count=READ_AT_ONCE)):
                        yield [Subject(Look.IMPORT, entry[0], queue) for entry in entries]

    def _subjects_of(self, name: str) -> Iterator[Subject]:
        key = key_of(name)
        suffix = name.removeprefix(key.name) if key else ""
        if key is IMPORT:
            yield Subject(Look.IMPORT, suffix)
        elif key is TARGET:
            yield Subject(Look.TARGET, suffix)
        elif key is None or key in {TASKS, HISTORY, IDEMPOTENCY}:
            yield Subject(Look.KEY, name)
        elif key is PARKED:
            self.late.add(Subject(Look.PARKED, suffix))
        elif key in {BATCH, MEMBERS, HELD}:
            self.late.add(Subject(Look.BATCH, suffix))
        elif key in {DELAYED, POLLS, LATE, LEASES}:
            self.late.add(Subject(Look.LANE, suffix))
        elif key is WAITING:
            self.late.add(Subject(Look.LANE, suffix.rpartition(":")[0]))

    async def of_batch(self, batch_id: str) -> AsyncIterator[list[Subject]]:
        """Yield the imports of a batch, with their targets and tasks, page by page."""
        self.late.add(Subject(Look.BATCH, batch_id))
        members = self._redis.zscan_iter(MEMBERS.on(self._redis) + batch_id, count=READ_AT_ONCE)
        async for page in paged(members):
            ids = [entry[0] for entry in page]
            records = await fields_of(self._redis, ids, *TARGET_FIELDS, "batch_id")
            subjects = []
            for import_id, (*target, of_batch) in zip(ids, records, strict=True):
                if of_batch == batch_id:
                    self.late.add(Subject(Look.LANE, "/".join(target[:2])))
                    subjects += [
                        Subject(Look.IMPORT, import_id),
                        Subject(Look.TARGET, "/".join(target)),
                        Subject(Look.KEY, TASKS.name + import_id),
                    ]
            yield subjects


async def fields_of(redis: "Redis", import_ids: Iterable[str], *names: str) -> list[list[str]]:
    """Return these fields of each import's record; '' for a field that is missing."""
    async with redis.pipeline(transaction=False) as pipeline:
        for import_id in import_ids:
            pipeline.hmget(IMPORT.on(redis) + import_id, *spellings(names))
        found = await pipeline.execute()
    return [[value or "" for value in values_of(names, values)] for values in found]


async def paged(items: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    """Yield the items in lists of at most `READ_AT_ONCE`."""
    page: list[T] = []
    async for item in items:
        page.append(item)
        if len(page) == READ_AT_ONCE:
            yield page
            page = []
    if page:
        yield page
