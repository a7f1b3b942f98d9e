"""The audit: reads the event stream and the store, and says whether every promise held.

It writes nothing and blocks nobody for long: keys are scanned, and read some at a time. The store
changes meanwhile; so each import, batch, target and lane is looked at by one script, in one moment,
and what looks wrong is looked at again after a pause. Only what is wrong both times is a violation.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar

from redis.asyncio import Redis

from worker.domain.states import TERMINAL
from worker.store import promises
from worker.store.connection import translated
from worker.store.journal import Journal
from worker.store.keys import (
    BATCH,
    DELAYED,
    EVENTS,
    HELD,
    HISTORY,
    IDEMPOTENCY,
    IMPORT,
    LATE,
    LEASES,
    MEMBERS,
    PARKED,
    POLLS,
    TARGET,
    TASKS,
    WAITING,
)
from worker.store.promises import ImportFacts, Promise, Violation
from worker.store.scripts import Scripts

T = TypeVar("T")

SCANNED_AT_ONCE: Final = 1000
READ_AT_ONCE: Final = 500
LOOKED_AT_AT_ONCE: Final = 100
"""So many imports keep the store busy for about four milliseconds."""

PATIENCE_LEASES: Final = 3
"""After how many leases what is due, and was not taken up, is a violation."""

QUEUES: Final = frozenset({WAITING, DELAYED, POLLS, LATE, LEASES, PARKED, HELD})
TARGET_FIELDS: Final = ("account", "region", "app_id", "backend_environment_name")
PRIORITIES: Final = ("high", "normal", "low")

OnProgress = Callable[[str, int], None]
"""Told of the work so far: what is read, and how much of it."""


class Look(StrEnum):
    """What is looked at by one script."""

    IMPORT = "import"
    BATCH = "batch"
    TARGET = "target"
    PARKED = "parked"
    LANE = "lane"
    KEY = "key"


class Subject(NamedTuple):
    """One thing to look at; `queue` is that in which an import's id was found, if any."""

    look: Look
    name: str
    queue: str = ""


Found = tuple[Subject, Violation]
Suspect = tuple[Subject, Promise]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found. `examined` counts what each promise was held against.

    `not_checkable` imports have lost events to the trimming of the stream: what is left of them was
    checked.
    """

    examined: dict[Promise, int]
    not_checkable: int
    events: int
    violations: list[Violation]

    @property
    def held(self) -> bool:
        """Whether every promise held."""
        return not self.violations


@translated
async def audit(
    redis: "Redis",
    *,
    lease_seconds: float,
    retention_seconds: float,
    batch_id: str = "",
    patience_seconds: float | None = None,
    pause_seconds: float = 2.0,
    on_progress: OnProgress = lambda _what, _count: None,
) -> AuditReport:
    """Hold the store against its promises; of one batch only, where `batch_id` is given.

    `lease_seconds` and `retention_seconds` are those of the workers. What is due and not taken up
    for `patience_seconds` (three leases, unless given) is a violation. `redis` decodes responses.

    Raises:
        StoreUnavailableError: when the store can't be reached.

    """
    patience = PATIENCE_LEASES * lease_seconds if patience_seconds is None else patience_seconds
    journal = Journal(
        redis,
        retention_seconds * 1000,
        batch_id,
        on_read=lambda count: on_progress("events", count),
    )
    auditor = _Auditor(redis, journal, patience * 1000)
    return await auditor.run(batch_id, pause_seconds, on_progress)


class _Auditor:
    """One audit. `_examined` counts at every look."""

    def __init__(self, redis: "Redis", journal: Journal, patience_ms: float) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, {})
        self._journal = journal
        self._patience_ms = patience_ms
        self._examined = dict.fromkeys(Promise, 0)
        self._not_checkable = 0
        self._late: set[Subject] = set()  # what can be judged only when all else was seen
        self._looks = {
            Look.IMPORT: self._look_at_imports,
            Look.BATCH: self._look_at_batches,
            Look.TARGET: self._look_at_targets,
            Look.PARKED: self._look_at_parked,
            Look.LANE: self._look_at_lanes,
            Look.KEY: self._look_at_keys,
        }

    async def run(
        self, batch_id: str, pause_seconds: float, on_progress: OnProgress
    ) -> AuditReport:
        await self._read_events()
        pages = self._of_batch(batch_id) if batch_id else self._of_store()
        suspects = await self._first_look(pages, on_progress)
        examined, not_checkable = dict(self._examined), self._not_checkable
        confirmed: list[Violation] = []
        if suspects:
            await asyncio.sleep(pause_seconds)
            confirmed = await self._second_look(suspects)
        return AuditReport(
            examined=examined,
            not_checkable=not_checkable,
            events=self._journal.events,
            violations=[*self._false_events(), *confirmed],
        )

    async def _read_events(self) -> None:
        """Read the stream up to now; each look at an import reads on."""
        entries: Any = await self._redis.xrevrange(EVENTS.name, count=1)
        if entries:
            await self._journal.read_to(entries[0][0])

    def _false_events(self) -> list[Violation]:
        """Return what is wrong with events by themselves: they don't change, one look is enough."""
        return [
            Violation(Promise.OUTCOME, event_id, sentence)
            for event_id, sentence in self._journal.faults
        ]

    async def _first_look(
        self, pages: AsyncIterator[list[Subject]], on_progress: OnProgress
    ) -> set[Suspect]:
        suspects: set[Suspect] = set()
        looked_at = 0
        async for page in pages:
            suspects.update(_suspects_of(await self._look(page)))
            looked_at += len(page)
            on_progress("keys", looked_at)
        told_of = [Subject(Look.IMPORT, name) for name in self._journal.not_checked()]
        suspects.update(_suspects_of(await self._look(told_of)))
        suspects.update(_suspects_of(await self._look(self._late)))
        return suspects

    async def _second_look(self, suspects: set[Suspect]) -> list[Violation]:
        found = await self._look({subject for subject, _ in suspects})
        confirmed = [
            violation for subject, violation in found if (subject, violation.promise) in suspects
        ]
        order = list(Promise)
        return sorted(confirmed, key=lambda v: (order.index(v.promise), v.subject))

    async def _look(self, subjects: Iterable[Subject]) -> list[Found]:
        by_look: dict[Look, list[Subject]] = {}
        for subject in subjects:
            by_look.setdefault(subject.look, []).append(subject)
        return [
            found for look, group in by_look.items() for found in await self._looks[look](group)
        ]

    async def _of_store(self) -> AsyncIterator[list[Subject]]:
        """Yield all there is, page by page; what must be seen late is put aside."""
        async for names in _paged(self._redis.scan_iter(match="imports:*", count=SCANNED_AT_ONCE)):
            yield [subject for name in names for subject in self._subjects_of(name)]
            for queue in names:
                if promises.key_of(queue) in QUEUES:
                    async for entries in _paged(self._redis.zscan_iter(queue, count=READ_AT_ONCE)):
                        yield [Subject(Look.IMPORT, entry[0], queue) for entry in entries]

    def _subjects_of(self, name: str) -> Iterator[Subject]:
        key = promises.key_of(name)
        suffix = name.removeprefix(key.name) if key else ""
        if key is IMPORT:
            yield Subject(Look.IMPORT, suffix)
        elif key is TARGET:
            yield Subject(Look.TARGET, suffix)
        elif key is None or key in {TASKS, HISTORY, IDEMPOTENCY}:
            yield Subject(Look.KEY, name)
        elif key is PARKED:
            self._late.add(Subject(Look.PARKED, suffix))
        elif key in {BATCH, MEMBERS, HELD}:
            self._late.add(Subject(Look.BATCH, suffix))
        elif key in {DELAYED, POLLS, LATE, LEASES}:
            self._late.add(Subject(Look.LANE, suffix))
        elif key is WAITING:
            self._late.add(Subject(Look.LANE, suffix.rpartition(":")[0]))

    async def _of_batch(self, batch_id: str) -> AsyncIterator[list[Subject]]:
        """Yield a batch's imports and what goes with them, page by page."""
        self._late.add(Subject(Look.BATCH, batch_id))
        members = self._redis.zscan_iter(MEMBERS.name + batch_id, count=READ_AT_ONCE)
        async for page in _paged(members):
            ids = [entry[0] for entry in page]
            records = await self._fields(ids, *TARGET_FIELDS, "batch_id")
            subjects = []
            for import_id, (*target, of_batch) in zip(ids, records, strict=True):
                if of_batch == batch_id:
                    self._late.add(Subject(Look.LANE, "/".join(target[:2])))
                    subjects += [
                        Subject(Look.IMPORT, import_id),
                        Subject(Look.TARGET, "/".join(target)),
                        Subject(Look.KEY, TASKS.name + import_id),
                    ]
            yield subjects

    async def _fields(self, ids: Iterable[str], *names: str) -> list[list[str]]:
        """Return these fields of imports; '' for what is not there."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for import_id in ids:
                pipeline.hmget(IMPORT.name + import_id, *names)
            return [[value or "" for value in values] for values in await pipeline.execute()]

    async def _look_at_imports(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        for page in _pages_of(subjects, LOOKED_AT_AT_ONCE):
            entries = [(subject.name, subject.queue) for subject in page]
            now_ms, newest, *texts = await self._scripts.call("audit_imports", entries=entries)
            await self._journal.read_to(newest)
            for subject, text in zip(page, texts, strict=True):
                facts = ImportFacts.parse(now_ms, text)
                judged = self._judge_import if not subject.queue else _judge_entry
                found += [(subject, violation) for violation in judged(subject, facts)]
        return found

    def _judge_import(self, subject: Subject, facts: ImportFacts) -> Iterator[Violation]:
        import_id = subject.name
        self._journal.check_off(import_id)
        yield from promises.check_outcome(import_id, facts, self._journal)
        self._examined[Promise.OUTCOME] += 1
        if not facts.state:
            return
        self._count_import(import_id, facts)
        yield from promises.check_place(import_id, facts)
        yield from promises.check_holding(import_id, facts)
        yield from promises.check_tasks(import_id, facts)
        yield from promises.check_overdue(import_id, facts, self._patience_ms)
        yield from promises.check_expiry(import_id, facts)

    def _count_import(self, import_id: str, facts: ImportFacts) -> None:
        self._not_checkable += not promises.is_checkable(import_id, facts, self._journal)
        self._examined[Promise.PLACE] += facts.state not in TERMINAL
        self._examined[Promise.TASK] += facts.state in TERMINAL and facts.owes
        self._examined[Promise.OVERDUE] += promises.due_things(facts)
        self._examined[Promise.RETENTION] += 1

    async def _look_at_batches(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        for subject in subjects:
            now_ms, newest, text = await self._scripts.call("audit_batch", batch_id=subject.name)
            await self._journal.read_to(newest)
            facts = {"now_ms": now_ms, **json.loads(text)}
            found += [
                (subject, violation)
                for violation in promises.check_batch(subject.name, facts, self._journal)
            ]
            self._examined[Promise.BATCH] += 1
        return found

    async def _look_at_targets(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        facts = await self._facts_of_targets([subject.name for subject in subjects])
        for subject in subjects:
            of_target = facts[subject.name]
            found += [(subject, v) for v in promises.check_target(subject.name, of_target)]
            if "first" in of_target:
                self._late.add(Subject(Look.PARKED, subject.name))
        self._examined[Promise.TARGET] += len(subjects)
        return found

    async def _facts_of_targets(self, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
        facts: dict[str, dict[str, Any]] = {}
        for page in _pages_of(targets, LOOKED_AT_AT_ONCE):
            texts = await self._scripts.call("audit_targets", targets=page)
            facts.update((name, json.loads(text)) for name, text in zip(page, texts, strict=True))
        return facts

    async def _look_at_parked(self, subjects: Sequence[Subject]) -> list[Found]:
        """Look for imports that wait for a free target that none of its imports is going to take.

        A target that comes free lets one import compete for a start, which frees the next in its
        time. Nothing shows in one moment which import that is: it is looked for in the lane.
        """
        before = await self._facts_of_targets([subject.name for subject in subjects])
        free = {name: facts["first"] for name, facts in before.items() if _is_left(facts)}
        for lane in {_lane_of(target) for target in free}:
            for target in await self._competing(lane):
                free.pop(target, None)
        after = await self._facts_of_targets(list(free))
        return [
            (
                Subject(Look.PARKED, target),
                Violation(Promise.TARGET, target, f"it is free, and {first} still waits for it"),
            )
            for target, first in free.items()
            if _is_left(after[target]) and after[target]["first"] == first
        ]

    async def _competing(self, lane: str) -> set[str]:
        """Return the targets for which imports of the lane wait for a start."""
        targets: set[str] = set()
        # In the order in which imports move, so that none is missed.
        for queue in (DELAYED.name + lane, *(f"{WAITING.name}{lane}:{p}" for p in PRIORITIES)):
            async for page in _paged(self._redis.zscan_iter(queue, count=READ_AT_ONCE)):
                fields = await self._fields((entry[0] for entry in page), *TARGET_FIELDS)
                targets.update("/".join(values) for values in fields)
        return targets

    async def _look_at_lanes(self, subjects: Sequence[Subject]) -> list[Found]:
        lanes = [subject.name for subject in subjects]
        now_ms, *texts = await self._scripts.call("audit_lanes", lanes=lanes)
        found: list[Found] = []
        for subject, text in zip(subjects, texts, strict=True):
            facts = json.loads(text)
            self._examined[Promise.LANE] += facts["has_work"]
            latest_ms = now_ms - self._patience_ms
            found += [(subject, v) for v in promises.check_lane(subject.name, facts, latest_ms)]
        return found

    async def _look_at_keys(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        for page in _pages_of(subjects, READ_AT_ONCE):
            names = [subject.name for subject in page]
            replies = await self._scripts.call("audit_keys", keys=names)
            for subject, (pttl, state) in zip(page, replies, strict=True):
                found += [(subject, v) for v in promises.check_key(subject.name, pttl, state)]
        self._examined[Promise.RETENTION] += len(subjects)
        return found


def _judge_entry(subject: Subject, facts: ImportFacts) -> Iterator[Violation]:
    return promises.check_entry(subject.name, subject.queue, facts)


def _is_left(target: Mapping[str, Any]) -> bool:
    """Whether imports are parked at a target that nobody holds."""
    return "first" in target and "holder" not in target


def _lane_of(target: str) -> str:
    return "/".join(target.split("/", 2)[:2])


def _suspects_of(found: Iterable[Found]) -> Iterator[Suspect]:
    return ((subject, violation.promise) for subject, violation in found)


def _pages_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


async def _paged(items: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    page: list[T] = []
    async for item in items:
        page.append(item)
        if len(page) == READ_AT_ONCE:
            yield page
            page = []
    if page:
        yield page
