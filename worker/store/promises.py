"""What an audit asks of what it has seen: pure rules, each a sentence when it does not hold.

Facts are of one moment: the scripts `audit_*` read them. Nothing here reads the store.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from worker.domain.events import EventType
from worker.domain.imports import iso_time
from worker.domain.states import TERMINAL, State
from worker.store.journal import LETTERS, NAMES, Journal, Story
from worker.store.keys import (
    BATCH,
    CATALOGUE,
    DELAYED,
    HELD,
    LATE,
    LEASES,
    MEMBERS,
    PARKED,
    POLLS,
    TARGET,
    WAITING,
    Key,
)

UNDER_WAY: Final = frozenset({State.STARTING, State.RUNNING})
FOLLOWED: Final = frozenset({State.TIMED_OUT, State.CANCELLED})
"""Ends after which a job may still be followed, for its own end to be noted."""
STATES: Final = frozenset(State)
ENDS: Final = {event: letter for event, letter in LETTERS.items() if letter.isupper()}
PLACES: Final[Mapping[str, frozenset[str]]] = {
    State.WAITING: frozenset({"waiting", "delayed", "parked", "held"}),
    State.STARTING: frozenset({"leases", "polls"}),
    State.RUNNING: frozenset({"leases", "polls"}),
}
DUE: Final = {
    "leases": "a call's lease ended",
    "polls": "a poll was due",
    "delayed": "a start was due",
}
ENTRY_MARGIN_MS: Final = 1000
"""How much later than its record a terminal event may have been stamped."""


class Promise(StrEnum):
    """What is promised of the store; the names are what people read."""

    OUTCOME = "one outcome"
    PLACE = "one place"
    TARGET = "one at a time"
    BATCH = "batches add up"
    LANE = "no lane is stranded"
    TASK = "no task is forgotten"
    OVERDUE = "nobody waits unnoticed"
    RETENTION = "nothing stays for ever"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that does not hold, for an import, batch, target, lane, key or event."""

    promise: Promise
    subject: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFacts:
    """An import as one moment saw it; `record` is empty where there is none."""

    now_ms: int
    pttl: int
    record: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, float] | None = None
    holder: str = ""
    owes: bool = False
    unfinished: float | None = None
    lane_due: float | None = None
    paused: bool = False
    seen_in: float | None = None

    @classmethod
    def parse(cls, now_ms: int, text: str) -> Self:
        """Build from what `audit_imports` returns for an import."""
        return cls(now_ms=now_ms, **json.loads(text))

    @property
    def state(self) -> str:
        """The state; '' where there is no record."""
        return self.record.get("state", "")

    @property
    def lane(self) -> str:
        """The name of the import's lane."""
        return f"{self.record['account']}/{self.record['region']}"

    @property
    def target(self) -> str:
        """The name of the import's target, with its lane."""
        return f"{self.lane}/{self.record['app_id']}/{self.record['backend_environment_name']}"

    def time_of(self, name: str) -> int:
        """Return a time of the record, 0 when not yet."""
        return int(float(self.record.get(name) or 0))


def check_outcome(import_id: str, facts: ImportFacts, journal: Journal) -> Iterator[Violation]:
    """Ask for the events of an import's life, each once and in order, and no other end."""
    story = journal.story_of(import_id)
    sentences = [
        *_repeated(story),
        *(_untold(facts, story, journal) if facts.state else _lost(facts, story, journal)),
        *_false_ends(facts, story),
    ]
    for sentence in sentences:
        yield Violation(Promise.OUTCOME, import_id, sentence)


def is_checkable(import_id: str, facts: ImportFacts, journal: Journal) -> bool:
    """Whether all events that the record calls for are there, or were not trimmed off."""
    missing = _missing(facts, journal.story_of(import_id))
    return not any(journal.may_be_trimmed(at_ms) for _, at_ms in missing)


def _repeated(story: Story) -> Iterator[str]:
    for letter, event in NAMES.items():
        if (times := story.letters.count(letter)) > 1:
            yield f"{event} was told {times} times"
    # That it waits for a person may be told at any time before its end.
    order = [_rank(letter) for letter in story.letters.replace("u", "")]
    before, undecided, _ = story.letters.partition("u")
    if order != sorted(order) or (undecided and (not before or before[-1].isupper())):
        yield "its events came in another order than accepted, started, ended"


def _rank(letter: str) -> int:
    return 3 if letter.isupper() else "askq".index(letter)


def _untold(facts: ImportFacts, story: Story, journal: Journal) -> Iterator[str]:
    for event, at_ms in _missing(facts, story):
        if not journal.may_be_trimmed(at_ms):
            yield f"it is {facts.state}, and {event} was never told"


def _missing(facts: ImportFacts, story: Story) -> Iterator[tuple[EventType, int]]:
    """Yield the events that the record calls for and that are not there, and when they were."""
    called_for = {}
    if "sequence" in facts.record:  # else it was rejected at birth, and never accepted
        called_for[EventType.ACCEPTED] = "accepted_at_ms"
    if facts.state == State.RUNNING:
        called_for[EventType.STARTED] = "started_at_ms"
    if facts.state in TERMINAL:
        called_for[EventType(f"import.{facts.state}")] = "finished_at_ms"
    for event, moment in called_for.items():
        if LETTERS[event] not in story.letters:
            yield event, facts.time_of(moment)


def _false_ends(facts: ImportFacts, story: Story) -> Iterator[str]:
    ends = [event for event, letter in ENDS.items() if letter in story.letters]
    if len(ends) > 1:
        yield f"it has more than one end: {', '.join(ends)}"
    for event in ends:
        if facts.state and event != f"import.{facts.state}":
            yield f"it is {facts.state}, and {event} was told"


def _lost(facts: ImportFacts, story: Story, journal: Journal) -> Iterator[str]:
    """Yield a sentence when the record is gone before its time."""
    if not story.letters or journal.may_be_trimmed(story.last_ms):
        return
    if not story.letters[-1].isupper():
        yield "it was accepted and has not ended, and its record is gone"
    elif facts.now_ms < story.last_ms + journal.retention_ms - ENTRY_MARGIN_MS:
        yield "its record is gone before the retention time is over"


def check_place(import_id: str, facts: ImportFacts) -> Iterator[Violation]:
    """Ask that what is not over stands in exactly one queue, one that fits its state."""
    for sentence in _misplaced(facts):
        yield Violation(Promise.PLACE, import_id, sentence)


def _misplaced(facts: ImportFacts) -> Iterator[str]:
    if facts.state not in STATES or facts.places is None:
        yield f"its record can't be read: its state is {facts.state!r}, or its target is missing"
        return
    where = ", ".join(sorted(facts.places)) or "no queue"
    if facts.state in TERMINAL:
        allowed = frozenset({"leases", "late"}) if _is_followed(facts) else frozenset[str]()
        if facts.places and (len(facts.places) > 1 or not facts.places.keys() <= allowed):
            yield f"it is {facts.state}, and still stands in {where}"
        elif allowed and not facts.places and "format" in facts.record:
            yield f"it is {facts.state}, and nobody looks for the end of its job"
    elif len(facts.places) != 1 or not facts.places.keys() <= PLACES[facts.state]:
        yield f"it is {facts.state}, and stands in {where}"


def _is_followed(facts: ImportFacts) -> bool:
    """Whether the job of an import that is over is still polled, to note its late end."""
    record = facts.record
    return facts.state in FOLLOWED and "job_id" in record and "late_outcome" not in record


def check_entry(import_id: str, queue: str, facts: ImportFacts) -> Iterator[Violation]:
    """Ask that what stands in a queue has a record that belongs there."""
    if facts.seen_in is None:
        return
    if not facts.state:
        if key_of(queue) is not LATE:  # its record may expire before its job ends
            yield Violation(Promise.PLACE, import_id, f"it stands in {queue}, and has no record")
    elif facts.places is not None and queue not in _queues_of(facts):
        yield Violation(Promise.PLACE, import_id, f"it stands in {queue}, where it doesn't belong")


def _queues_of(facts: ImportFacts) -> set[str]:
    record = facts.record
    return {
        f"{WAITING.name}{facts.lane}:{record.get('priority', '')}",
        DELAYED.name + facts.lane,
        LEASES.name + facts.lane,
        POLLS.name + facts.lane,
        LATE.name + facts.lane,
        PARKED.name + facts.target,
        HELD.name + record.get("batch_id", ""),
    }


def check_holding(import_id: str, facts: ImportFacts) -> Iterator[Violation]:
    """Ask that an import that starts or runs holds its target: then no other one does."""
    if facts.state in UNDER_WAY and facts.places is not None and facts.holder != import_id:
        sentence = f"it is {facts.state}, and its target is held by {facts.holder or 'nobody'}"
        yield Violation(Promise.TARGET, import_id, sentence)


def check_tasks(import_id: str, facts: ImportFacts) -> Iterator[Violation]:
    """Ask that an import that is over and owes tasks their end is listed as unfinished."""
    if facts.state in TERMINAL and facts.owes and facts.unfinished is None:
        sentence = "it is over and owes tasks their end, and nobody is going to look at it"
        yield Violation(Promise.TASK, import_id, sentence)
    elif facts.state and facts.state not in TERMINAL and facts.unfinished is not None:
        sentence = f"it is {facts.state}, and its tasks are about to be ended"
        yield Violation(Promise.TASK, import_id, sentence)


def check_overdue(import_id: str, facts: ImportFacts, patience_ms: float) -> Iterator[Violation]:
    """Ask that what is due is taken up soon, unless its lane is paused."""
    latest = facts.now_ms - patience_ms
    if facts.unfinished is not None and facts.unfinished < latest:
        yield _overdue(import_id, "a task was to be ended", facts.unfinished)
    for kind, due in (facts.places or {}).items():
        if kind not in DUE or facts.paused or due >= latest:
            continue
        # A poll may also wait for the lane's limit; that is noticed, where the lane is looked at.
        if kind != "polls" or facts.lane_due is None or facts.lane_due < latest:
            yield _overdue(import_id, DUE[kind], due)


def due_things(facts: ImportFacts) -> int:
    """Return how many things of an import fall due."""
    return len((facts.places or {}).keys() & DUE.keys()) + (facts.unfinished is not None)


def _overdue(subject: str, what: str, due_ms: float) -> Violation:
    return Violation(
        Promise.OVERDUE, subject, f"{what} at {iso_time(int(due_ms))}, and nobody took it up"
    )


def check_expiry(import_id: str, facts: ImportFacts) -> Iterator[Violation]:
    """Ask that a record expires when, and only when, its import is over."""
    if facts.state in TERMINAL and facts.pttl == -1:
        sentence = "it is over, and its record would stay for ever"
        yield Violation(Promise.RETENTION, import_id, sentence)
    elif facts.state and facts.state not in TERMINAL and facts.pttl >= 0:
        sentence = f"it is {facts.state}, and its record is about to expire"
        yield Violation(Promise.RETENTION, import_id, sentence)


def check_target(target: str, facts: Mapping[str, Any]) -> Iterator[Violation]:
    """Ask that a target is held by an import that may hold it, else soon forgotten."""
    if "holder" not in facts:
        if facts["pttl"] == -1:
            yield Violation(
                Promise.RETENTION, TARGET.name + target, "nobody needs it, and it stays"
            )
        return
    for sentence in _unfit_holder(target, facts):
        yield Violation(Promise.TARGET, target, sentence)


def _unfit_holder(target: str, facts: Mapping[str, Any]) -> Iterator[str]:
    holder, record = facts["holder"], facts["record"]
    state = record.get("state")
    if state is None:
        yield f"it is held by {holder}, which has no record"
    elif state == State.WAITING and not float(record.get("doubts") or 0):
        yield f"it is held by {holder}, which only waits"
    elif state in TERMINAL:
        yield f"it is held by {holder}, which is {state}"
    elif _target_of(record) != target:
        yield f"it is held by {holder}, an import of another target"
    if facts["pttl"] >= 0:
        yield f"it is held by {holder}, and is about to be forgotten"


def _target_of(record: Mapping[str, str]) -> str:
    names = ("account", "region", "app_id", "backend_environment_name")
    return "/".join(record.get(name, "") for name in names)


def check_batch(batch_id: str, facts: Mapping[str, Any], journal: Journal) -> Iterator[Violation]:
    """Ask that a batch's counts are true, and that it is complete when its imports are over."""
    for sentence in _wrong_batch(batch_id, facts, journal):
        yield Violation(Promise.BATCH, batch_id, sentence)
    over = _count(facts["batch"], *TERMINAL) >= _count(facts["batch"], "accepted")
    for key, pttl in ((BATCH, facts["pttl"]), (MEMBERS, facts["members_pttl"])):
        if over and pttl == -1:
            yield Violation(
                Promise.RETENTION, key.name + batch_id, "the batch is over, and it stays"
            )
        elif not over and pttl >= 0:
            sentence = "the batch is not over, and it is about to expire"
            yield Violation(Promise.RETENTION, key.name + batch_id, sentence)


def _wrong_batch(batch_id: str, facts: Mapping[str, Any], journal: Journal) -> Iterator[str]:
    batch, states = facts["batch"], facts["states"]
    for state in State:
        counted, there = _count(batch, state), states.get(state, 0)
        # Imports that are over expire one by one, and stay counted.
        if counted < there or (counted > there and state not in TERMINAL):
            yield f"it counts {counted} {state}, and {there} of its imports are"
    accepted, known = _count(batch, "accepted"), _count(batch, "known")
    if (counted := _count(batch, *State)) != accepted:
        yield f"it counts {accepted} accepted, and {counted} by state"
    if facts["members"] > accepted + known:
        yield f"it has {facts['members']} members, and counts {accepted + known}"
    yield from _wrong_completion(batch_id, facts, journal)
    yield from _wrong_gate(facts)


def _wrong_completion(batch_id: str, facts: Mapping[str, Any], journal: Journal) -> Iterator[str]:
    batch = facts["batch"]
    total = _count(batch, "accepted", "known")
    ended = _count(batch, *TERMINAL, "known")
    is_over = 0 < total <= ended and total >= _count(batch, "expected")
    completed_ms = _count(batch, "completed_at_ms")
    if is_over and not completed_ms:
        yield f"all its {total} imports are over, and it is not completed"
    if completed_ms and not is_over:
        announced = max(total, _count(batch, "expected"))
        yield f"it is completed, and {ended} of {announced} are over"
    told = journal.was_told(f"{batch_id}/completed/{total}", facts["now_ms"])
    if completed_ms and not told and not journal.may_be_trimmed(completed_ms):
        yield f"it is completed, and no batch.completed told of {total}"
    if told and not is_over:
        yield f"batch.completed told of {total}, and {ended} are over"


def _wrong_gate(facts: Mapping[str, Any]) -> Iterator[str]:
    batch = facts["batch"]
    gate = batch.get("gate")
    if facts["held"] and not gate and not facts["is_released"]:
        yield f"its gate is open, and {facts['held']} of its imports are held back for ever"
    if (gate == "stopped") != ("stopped_reason" in batch):
        yield f"its gate is {gate or 'open'}, and its reason {batch.get('stopped_reason')!r}"
    if gate == "canary" and not _count(batch, "canary"):
        yield "it waits for canaries, and has none"


def _count(batch: Mapping[str, str], *names: str) -> int:
    return sum(int(float(batch.get(name) or 0)) for name in names)


def check_lane(lane: str, facts: Mapping[str, Any], latest_ms: float) -> Iterator[Violation]:
    """Ask that a lane with work is going to be looked at, and was when it was due."""
    due = facts.get("due")
    if not facts["has_work"]:
        return
    if due is None:
        yield Violation(Promise.LANE, lane, "it has work, and nobody is going to look at it")
    elif due < latest_ms and not facts["paused"]:
        yield _overdue(lane, "it was due", due)


def check_key(name: str, pttl: int, state: str) -> Iterator[Violation]:
    """Ask that a key is one of the catalogue's, and stays no longer than its import needs it."""
    key = key_of(name)
    if key is None and pttl != GONE:
        yield Violation(Promise.RETENTION, name, "no key of that name is known")
    elif pttl == -1 and (not state or state in TERMINAL):
        yield Violation(Promise.RETENTION, name, "its import is over or gone, and it stays")


GONE: Final = -2
"""What PTTL says of a key that isn't there."""


def key_of(name: str) -> Key | None:
    """Return the kind of a key, None for one that is not in the catalogue."""
    return _KINDS.get(name) or _KINDS.get(":".join([*name.split(":", 2)[:2], ""]))


_KINDS: Final = {key.name: key for key in CATALOGUE}
