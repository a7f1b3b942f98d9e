"""The audit: reads the event stream and the store, and reports whether every promise holds.

It writes nothing. It scans the keys and reads them in small parts, so that it does not block the
store for long. The store may change during the audit. Therefore one script reads all facts of an
import, batch, target or lane at one moment, and the audit looks again, after a pause, at whatever
seems wrong. Only what is wrong both times is a violation.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis.asyncio import Redis

from worker.audit import groups, imports
from worker.audit.imports import ImportFacts
from worker.audit.journal import Journal
from worker.audit.promises import Promise, Violation
from worker.audit.subjects import (
    READ_AT_ONCE,
    TARGET_FIELDS,
    Look,
    Subject,
    Subjects,
    fields_of,
    paged,
)
from worker.domain.requests import Priority
from worker.domain.states import TERMINAL
from worker.store.connection import translated
from worker.store.keys import DELAYED, EVENTS, WAITING, name_on
from worker.store.scripts import Scripts

T = TypeVar("T")

LOOKED_AT_AT_ONCE: Final = 100
"""How many imports one script call reads: this keeps the store busy for about 4 milliseconds."""

PATIENCE_LEASES: Final = 3
"""After how many lease times overdue work that no worker has taken up is a violation."""


OnProgress = Callable[[str, int], None]
"""Called with the progress: what is being read (a plural noun), and how many of them so far."""


Found = tuple[Subject, Violation]
Suspect = tuple[Subject, Promise]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The result of an audit. `examined` counts the subjects that each promise was checked for.

    `not_checkable` is the number of imports some of whose events have been trimmed off the stream;
    the audit has checked what is left of them. `events` is the number of events read.
    """

    examined: dict[Promise, int]
    not_checkable: int
    events: int
    violations: list[Violation]

    @property
    def is_clean(self) -> bool:
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
    """Check every promise for the whole store, or for one batch if `batch_id` is given.

    `lease_seconds` and `retention_seconds` are those of the workers. Work that has been due for
    more than `patience_seconds` (by default three leases) is a violation. The second look comes
    `pause_seconds` after the first. `redis` must decode responses.

    Raises:
        StoreUnavailableError: if the store can't be reached.

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
    """One audit. Both looks increase the counts in `_examined`; the report has the first look's."""

    def __init__(self, redis: "Redis", journal: Journal, patience_ms: float) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, {})
        self._journal = journal
        self._patience_ms = patience_ms
        self._examined = dict.fromkeys(Promise, 0)
        self._not_checkable = 0
        self._subjects = Subjects(redis)
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
        pages = self._subjects.of_batch(batch_id) if batch_id else self._subjects.of_store()
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
        """Read the stream up to now. Each look at imports and batches then reads the new events."""
        entries: Any = await self._redis.xrevrange(EVENTS.on(self._redis), count=1)
        if entries:
            await self._journal.read_to(entries[0][0])

    def _false_events(self) -> list[Violation]:
        """Return the malformed and repeated events. Events don't change, so one look is enough."""
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
        without_record = [Subject(Look.IMPORT, name) for name in self._journal.not_checked()]
        suspects.update(_suspects_of(await self._look(without_record)))
        suspects.update(_suspects_of(await self._look(self._subjects.late)))
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

    async def _look_at_imports(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        for page in _pages_of(subjects, LOOKED_AT_AT_ONCE):
            entries = [(subject.name, name_on(self._redis, subject.queue)) for subject in page]
            reply = await self._scripts.call("audit_imports", entries=entries)
            await self._journal.read_to(reply["newest"])
            for subject, seen in zip(page, reply["imports"], strict=True):
                facts = ImportFacts(now_ms=reply["now_ms"], **seen)
                judged = self._judge_import if not subject.queue else _judge_entry
                found += [(subject, violation) for violation in judged(subject, facts)]
        return found

    def _judge_import(self, subject: Subject, facts: ImportFacts) -> Iterator[Violation]:
        import_id = subject.name
        self._journal.check_off(import_id)
        yield from imports.check_outcome(import_id, facts, self._journal)
        self._examined[Promise.OUTCOME] += 1
        if not facts.state:
            return
        self._count_import(import_id, facts)
        yield from imports.check_place(import_id, facts)
        yield from imports.check_holding(import_id, facts)
        yield from imports.check_tasks(import_id, facts)
        yield from imports.check_overdue(import_id, facts, self._patience_ms)
        yield from imports.check_expiry(import_id, facts)

    def _count_import(self, import_id: str, facts: ImportFacts) -> None:
        self._not_checkable += not imports.is_checkable(import_id, facts, self._journal)
        self._examined[Promise.PLACE] += facts.state not in TERMINAL
        self._examined[Promise.TASK] += facts.state in TERMINAL and facts.owes
        self._examined[Promise.OVERDUE] += imports.due_things(facts)
        self._examined[Promise.RETENTION] += 1

    async def _look_at_batches(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        for subject in subjects:
            facts = await self._scripts.call("audit_batch", batch_id=subject.name)
            await self._journal.read_to(facts["newest"])
            found += [
                (subject, violation)
                for violation in groups.check_batch(subject.name, facts, self._journal)
            ]
            self._examined[Promise.BATCH] += 1
        return found

    async def _look_at_targets(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        facts = await self._facts_of_targets([subject.name for subject in subjects])
        for subject in subjects:
            of_target = facts[subject.name]
            found += [(subject, v) for v in groups.check_target(subject.name, of_target)]
            if "first" in of_target:
                self._subjects.late.add(Subject(Look.PARKED, subject.name))
        self._examined[Promise.TARGET] += len(subjects)
        return found

    async def _facts_of_targets(self, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
        facts: dict[str, dict[str, Any]] = {}
        for page in _pages_of(targets, LOOKED_AT_AT_ONCE):
            reply = await self._scripts.call("audit_targets", targets=page)
            facts.update(zip(page, reply["targets"], strict=True))
        return facts

    async def _look_at_parked(self, subjects: Sequence[Subject]) -> list[Found]:
        """Look for free targets for which imports wait although no import is going to take them.

        When a target becomes free, one of its waiting imports moves to a queue of the lane, and in
        its time lets the next one move. The target does not say which import has moved, so this
        looks for it in the queues of the lane.
        """
        before = await self._facts_of_targets([subject.name for subject in subjects])
        free = {name: facts["first"] for name, facts in before.items() if _is_abandoned(facts)}
        for lane in {_lane_of(target) for target in free}:
            for target in await self._competing(lane):
                free.pop(target, None)
        after = await self._facts_of_targets(list(free))
        return [
            (
                Subject(Look.PARKED, target),
                Violation(
                    Promise.TARGET, target, f"it is free, but import {first} still waits for it"
                ),
            )
            for target, first in free.items()
            if _is_abandoned(after[target]) and after[target]["first"] == first
        ]

    async def _competing(self, lane: str) -> set[str]:
        """Return the targets of the imports that are queued for a start in this lane."""
        targets: set[str] = set()
        # Read the queues in the order in which imports move through them, so as to miss none.
        queues = (DELAYED.name + lane, *(f"{WAITING.name}{lane}:{p}" for p in Priority))
        for queue in (name_on(self._redis, name) for name in queues):
            async for page in paged(self._redis.zscan_iter(queue, count=READ_AT_ONCE)):
                fields = await fields_of(self._redis, (entry[0] for entry in page), *TARGET_FIELDS)
                targets.update("/".join(values) for values in fields)
        return targets

    async def _look_at_lanes(self, subjects: Sequence[Subject]) -> list[Found]:
        lanes = [subject.name for subject in subjects]
        reply = await self._scripts.call("audit_lanes", lanes=lanes)
        latest_ms = reply["now_ms"] - self._patience_ms
        found: list[Found] = []
        for subject, facts in zip(subjects, reply["lanes"], strict=True):
            self._examined[Promise.LANE] += facts["has_work"]
            found += [(subject, v) for v in groups.check_lane(subject.name, facts, latest_ms)]
        return found

    async def _look_at_keys(self, subjects: Sequence[Subject]) -> list[Found]:
        found: list[Found] = []
        for page in _pages_of(subjects, READ_AT_ONCE):
            names = [name_on(self._redis, subject.name) for subject in page]
            reply = await self._scripts.call("audit_keys", keys=names)
            for subject, seen in zip(page, reply["keys"], strict=True):
                found += [(subject, v) for v in groups.check_key(subject.name, **seen)]
        self._examined[Promise.RETENTION] += len(subjects)
        return found


def _judge_entry(subject: Subject, facts: ImportFacts) -> Iterator[Violation]:
    return imports.check_entry(subject.name, subject.queue, facts)


def _is_abandoned(target: Mapping[str, Any]) -> bool:
    """Return whether imports are parked for a target that no import holds."""
    return "first" in target and "holder" not in target


def _lane_of(target: str) -> str:
    return "/".join(target.split("/", 2)[:2])


def _suspects_of(found: Iterable[Found]) -> Iterator[Suspect]:
    return ((subject, violation.promise) for subject, violation in found)


def _pages_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
