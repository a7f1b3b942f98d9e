"""The rules for imports, their events and their queues. Each yields a violation where it is broken.

The rules are pure functions. The script `audit_imports` reads all facts of an import at one moment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from worker.audit.journal import LETTERS, NAMES, ImportEvents, Journal
from worker.audit.promises import Promise, Violation, key_of, overdue
from worker.domain.events import EventType
from worker.domain.states import TERMINAL, State
from worker.domain.verification import Verification
from worker.store.keys import DELAYED, HELD, LATE, LEASES, PARKED, POLLS, WAITING

UNDER_WAY: Final = frozenset({State.STARTING, State.RUNNING})
FOLLOWED: Final = frozenset({State.TIMED_OUT, State.CANCELLED})
"""The final states in which an import's job may still run. Workers follow it to note its end."""
STATES: Final = frozenset(State)
ENDS: Final = {event: letter for event, letter in LETTERS.items() if letter.isupper()}
PLACES: Final[Mapping[str, frozenset[str]]] = {
    State.WAITING: frozenset({"waiting", "delayed", "parked", "held"}),
    State.STARTING: frozenset({"leases", "polls"}),
    State.RUNNING: frozenset({"leases", "polls"}),
}
DUE: Final = {
    "leases": "the lease of a call expired",
    "polls": "a poll was due",
    "delayed": "a start was due",
}
ENTRY_MARGIN_MS: Final = 1000
"""How much later than the end in the record a terminal event may be timestamped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFacts:
    """An import at one moment; `record` is empty if the import has none.

    `places` maps each kind of queue that holds the import to its score there; it is None if the
    record lacks the target. `holder` is the import that holds the target. `owes` says that the
    Celery task of the import is not completed yet, and `unfinished` when that is due. `seen_in` is
    the import's score in the queue in which the audit found it.
    """

    now_ms: int
    pttl: int
    record: Mapping[str, str] = field(default_factory=dict)
    was_accepted: bool = False
    places: Mapping[str, float] | None = None
    holder: str = ""
    owes: bool = False
    unfinished: float | None = None
    lane_due: float | None = None
    paused: bool = False
    seen_in: float | None = None

    @property
    def state(self) -> str:
        """The state; '' if there is no record."""
        return self.record.get("state", "")

    @property
    def lane(self) -> str:
        """The name of the import's lane."""
        return f"{self.record['account']}/{self.record['region']}"

    @property
    def target(self) -> str:
        """The name of the import's target, which begins with that of its lane."""
        return f"{self.lane}/{self.record['app_id']}/{self.record['backend_environment_name']}"

    def time_of(self, name: str) -> int:
        """Return a time of the record, in Unix milliseconds; 0 if it is not set."""
        return int(float(self.record.get(name) or 0))


def check_outcome(import_id: str, facts: ImportFacts, journal: Journal) -> Iterator[Violation]:
    """Check that an import has the events of its state, each once and in order, and no others."""
    events = journal.events_of(import_id)
    sentences = [
        *_repeated(events),
        *(
            _describe_missing(facts, events, journal)
            if facts.state
            else _lost(facts, events, journal)
        ),
        *_false_ends(facts, events),
    ]
    for sentence in sentences:
        yield Violation(Promise.OUTCOME, import_id, sentence)


def is_checkable(import_id: str, facts: ImportFacts, journal: Journal) -> bool:
    """Return whether no event that the record requires may have been trimmed off the stream."""
    missing = _missing(facts, journal.events_of(import_id))
    return not any(journal.may_be_trimmed(at_ms) for _, at_ms in missing)


def _repeated(events: ImportEvents) -> Iterator[str]:
    for letter, event in NAMES.items():
        if (times := events.letters.count(letter)) > 1:
            yield f"{event} was emitted {times} times"
    # `import.stuck` (undecided) may be emitted at any time between the acceptance and the end.
    order = [_rank(letter) for letter in events.letters.replace("u", "")]
    before, undecided, _ = events.letters.partition("u")
    if order != sorted(order) or (undecided and (not before or before[-1].isupper())):
        yield "its events are not in the order accepted, started, ended"


def _rank(letter: str) -> int:
    return 3 if letter.isupper() else "askqEv".index(letter)


def _describe_missing(facts: ImportFacts, events: ImportEvents, journal: Journal) -> Iterator[str]:
    for event, at_ms in _missing(facts, events):
        if not journal.may_be_trimmed(at_ms):
            yield f"it is {facts.state}, but {event} was never emitted"


def _missing(facts: ImportFacts, events: ImportEvents) -> Iterator[tuple[EventType, int]]:
    """Yield the events that the record requires and that are missing, with their times."""
    required = {}
    if facts.was_accepted:  # else the request was rejected on arrival
        required[EventType.ACCEPTED] = "accepted_at_ms"
    if facts.state == State.RUNNING:
        required[EventType.STARTED] = "started_at_ms"
    if facts.state in TERMINAL:
        required[EventType(f"import.{facts.state}")] = "finished_at_ms"
    for event, moment in required.items():
        if LETTERS[event] not in events.letters:
            yield event, facts.time_of(moment)


def _false_ends(facts: ImportFacts, events: ImportEvents) -> Iterator[str]:
    ends = [event for event, letter in ENDS.items() if letter in events.letters]
    if len(ends) > 1:
        yield f"it has more than one terminal event: {', '.join(ends)}"
    for event in ends:
        if facts.state and event != f"import.{facts.state}":
            yield f"it is {facts.state}, but {event} was emitted"


def _lost(facts: ImportFacts, events: ImportEvents, journal: Journal) -> Iterator[str]:
    """Yield a sentence if the record was removed too early."""
    if not events.letters or journal.may_be_trimmed(events.last_ms):
        return
    if not events.has_ended:
        yield "it was accepted and has not ended, but it has no record"
    elif facts.now_ms < events.last_ms + journal.retention_ms - ENTRY_MARGIN_MS:
        yield "its record was removed before the retention time had passed"


def check_place(import_id: str, facts: ImportFacts) -> Iterator[Violation]:
    """Check that an import that has not ended is in exactly one queue, one that fits its state."""
    for sentence in _misplaced(facts):
        yield Violation(Promise.PLACE, import_id, sentence)


def _misplaced(facts: ImportFacts) -> Iterator[str]:
    if facts.state not in STATES or facts.places is None:
        yield f"its record can't be read: its state is {facts.state!r}, or its target is missing"
        return
    where = _queues_named(sorted(facts.places))
    if facts.state in TERMINAL:
        allowed = frozenset({"leases", "late"}) if _is_followed(facts) else frozenset[str]()
        if facts.places and (len(facts.places) > 1 or not facts.places.keys() <= allowed):
            yield f"it is {facts.state}, but it is still in {where}"
        elif allowed and not facts.places and "format" in facts.record:
            yield f"it is {facts.state}, but no worker is scheduled to check how its job ends"
    elif len(facts.places) != 1 or not facts.places.keys() <= PLACES[facts.state]:
        yield f"it is {facts.state}, but it is in {where}"


def _queues_named(names: Sequence[str]) -> str:
    match names:
        case []:
            return "no queue"
        case [name]:
            return f"the queue {name}"
    return f"the queues {' and '.join(names)}"


def _is_followed(facts: ImportFacts) -> bool:
    """Return whether workers still make calls for an ended import: its job's end, its result."""
    record = facts.record
    if record.get("verification") == Verification.DUE:
        return True
    return facts.state in FOLLOWED and "job_id" in record and "late_outcome" not in record


def check_entry(import_id: str, queue: str, facts: ImportFacts) -> Iterator[Violation]:
    """Check that an import that was found in `queue` has a record, and that it belongs there."""
    if facts.seen_in is None:
        return
    if not facts.state:
        if key_of(queue) is not LATE:  # the record may expire before the job ends
            yield Violation(Promise.PLACE, import_id, f"it is in {queue}, but has no record")
    elif facts.places is not None and queue not in _queues_of(facts):
        yield Violation(Promise.PLACE, import_id, f"it is in {queue}, where it does not belong")


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
    """Check that a starting or running import holds its target, so that no other import does."""
    if facts.state in UNDER_WAY and facts.places is not None and facts.holder != import_id:
        holder = f"import {facts.holder}" if facts.holder else "no import"
        sentence = f"it is {facts.state}, but its target is held by {holder}"
        yield Violation(Promise.TARGET, import_id, sentence)


def check_tasks(import_id: str, facts: ImportFacts) -> Iterator[Violation]:
    """Check that an open task's completion is scheduled once its import has ended, not before."""
    if facts.state in TERMINAL and facts.owes and facts.unfinished is None:
        sentence = (
            "it has ended, but its task has not been completed and nothing is scheduled to do so"
        )
        yield Violation(Promise.TASK, import_id, sentence)
    elif facts.state and facts.state not in TERMINAL and facts.unfinished is not None:
        sentence = f"it is {facts.state}, but its task is scheduled to be completed"
        yield Violation(Promise.TASK, import_id, sentence)


def check_overdue(import_id: str, facts: ImportFacts, patience_ms: float) -> Iterator[Violation]:
    """Check that nothing has been due for longer than `patience_ms`, unless its lane is paused."""
    latest = facts.now_ms - patience_ms
    if facts.unfinished is not None and facts.unfinished < latest:
        yield overdue(import_id, "its task was to be completed", facts.unfinished)
    for kind, due in (facts.places or {}).items():
        if kind not in DUE or facts.paused or due >= latest:
            continue
        # A poll may also wait for the lane's rate limit. Then the lane has a later due time, and
        # `groups.check_lane` checks that one.
        if kind != "polls" or facts.lane_due is None or facts.lane_due < latest:
            yield overdue(import_id, DUE[kind], due)


def due_things(facts: ImportFacts) -> int:
    """Return how many things of an import have a due time."""
    return len((facts.places or {}).keys() & DUE.keys()) + (facts.unfinished is not None)


def check_expiry(import_id: str, facts: ImportFacts) -> Iterator[Violation]:
    """Check that the record of an import is set to expire exactly if the import has ended."""
    if facts.state in TERMINAL and facts.pttl == -1:
        sentence = "it has ended, but its record has no expiry"
        yield Violation(Promise.RETENTION, import_id, sentence)
    elif facts.state and facts.state not in TERMINAL and facts.pttl >= 0:
        sentence = f"it is {facts.state}, but its record is set to expire"
        yield Violation(Promise.RETENTION, import_id, sentence)
