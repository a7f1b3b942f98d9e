"""The event stream as an audit reads it: once, from the oldest event on.

The journal keeps a short events of each import: one letter per event. It checks what the events say
on their own. `worker.audit.imports` and `worker.audit.groups` compare them with the records.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, Final

from redis.asyncio import Redis

from worker.domain.events import EventType
from worker.domain.states import TERMINAL
from worker.store.keys import EVENTS

READ_AT_ONCE: Final = 500
IMPORT_PREFIX: Final = "import."
LETTERS: Final = {
    EventType.ACCEPTED: "a",
    EventType.STARTED: "s",
    EventType.STUCK: "k",
    EventType.UNVERIFIED: "v",
    **{EventType(IMPORT_PREFIX + state): state[0].upper() for state in sorted(TERMINAL)},
}
"""One letter for each type of event of an import. Its events is the string of these letters."""

LETTERS_OF_STUCK: Final = {"/undecided": "u", "/status": "q"}
"""`import.stuck` has two variants with other ids: the import waits for an operator to decide, or
the status of its job may be final. Each can occur in addition to the usual one."""

NAMES: Final = {
    **{letter: event for event, letter in LETTERS.items()},
    **{letter: f"{EventType.STUCK} ({part[1:]})" for part, letter in LETTERS_OF_STUCK.items()},
}

_MEMBERS: Final = ("id", "source", "type", "subject", "time")


@dataclass(slots=True)
class ImportEvents:
    """The events of one import: a letter for each, and when the last one was emitted."""

    letters: str = ""
    last_ms: int = 0
    is_checked: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether the last event, but for one that follows an end, is the import's end."""
        return self.letters.rstrip(LETTERS[EventType.UNVERIFIED])[-1:].isupper()


class Journal:
    """The events that have been read so far.

    It keeps only a few bytes per import, because a stream may cover a hundred thousand imports.
    """

    def __init__(
        self, redis: "Redis", retention_ms: float, batch_id: str, on_read: Callable[[int], None]
    ) -> None:
        self._redis = redis
        self.retention_ms = retention_ms
        self._batch_id = batch_id
        self._on_read = on_read
        self._cursor = "0-0"
        # The ids of events of batches and lanes, and when these events were emitted.
        self._others: dict[str, int] = {}
        self.by_import: dict[str, ImportEvents] = {}
        self.faults: list[tuple[str, str]] = []
        """The malformed or repeated events: the id of each, and a sentence that says why."""
        self.events = 0
        self.oldest_ms = 0
        """The time of the oldest event in the stream. Earlier events may have been trimmed off."""

    async def read_to(self, entry_id: str) -> None:
        """Continue reading, up to and including this entry."""
        while _order(self._cursor) < _order(entry_id):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.xrange(EVENTS.on(self._redis), f"({self._cursor}", entry_id, READ_AT_ONCE)
                pipeline.xrange(EVENTS.on(self._redis), count=1)
                entries, oldest = await pipeline.execute()
            self.oldest_ms = _order(oldest[0][0])[0] if oldest else 0
            for found, fields in entries:
                self._read(found, fields)
            self._on_read(self.events)
            self._cursor = entries[-1][0] if len(entries) == READ_AT_ONCE else entry_id

    def events_of(self, import_id: str) -> ImportEvents:
        """Return the events of an import so far; an empty one if there were no events."""
        return self.by_import.get(import_id) or ImportEvents()

    def check_off(self, import_id: str) -> None:
        """Note that the audit has checked this import."""
        if events := self.by_import.get(import_id):
            events.is_checked = True

    def not_checked(self) -> list[str]:
        """Return the ids of imports that have events and that the audit has not checked."""
        return [name for name, events in self.by_import.items() if not events.is_checked]

    def has_event(self, event_id: str, now_ms: int) -> bool:
        """Return whether this event of a batch was emitted within the retention time.

        An older event may be that of an earlier batch with the same id, whose record has expired.
        """
        emitted_ms = self._others.get(event_id)
        return emitted_ms is not None and not self._has_expired(emitted_ms, now_ms)

    def may_be_trimmed(self, at_ms: float) -> bool:
        """Return whether an event of that time may have been trimmed off the stream."""
        return at_ms <= self.oldest_ms

    def _read(self, entry_id: str, fields: Mapping[str, str]) -> None:
        event = _parsed(fields.get("event", ""))
        data = event.get("data")
        if self._batch_id and (not isinstance(data, dict) or data.get("batchId") != self._batch_id):
            return
        self.events += 1
        if fault := _fault_of(event):
            self.faults.append((str(event.get("id") or entry_id), fault))
            return
        at_ms = _order(entry_id)[0]
        if event["type"] in LETTERS:
            self._note_import(event["data"]["importId"], _letter_of(event), at_ms)
        else:
            self._note_other(event["id"], at_ms)

    def _note_import(self, import_id: str, letter: str, at_ms: int) -> None:
        events = self.by_import.setdefault(import_id, ImportEvents())
        if events.has_ended and self._has_expired(events.last_ms, at_ms):
            events.letters = ""  # a new import uses the id after the old record has expired
        events.letters = intern(events.letters + letter)
        if letter != LETTERS[EventType.UNVERIFIED]:  # the record is kept from the import's end on
            events.last_ms = at_ms

    def _note_other(self, event_id: str, at_ms: int) -> None:
        emitted_ms = self._others.get(event_id)
        if emitted_ms is not None and not self._has_expired(emitted_ms, at_ms):
            self.faults.append((event_id, "the event was emitted more than once"))
        self._others[event_id] = at_ms

    def _has_expired(self, emitted_ms: int, at_ms: int) -> bool:
        """Return whether a record that ended at `emitted_ms` has expired by `at_ms`."""
        return at_ms - emitted_ms >= self.retention_ms


def _order(entry_id: str) -> tuple[int, int]:
    """Return an entry id in a form that sorts: its milliseconds, and its number within them."""
    at_ms, _, number = entry_id.partition("-")
    return int(at_ms), int(number or 0)


def _parsed(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _fault_of(event: Mapping[str, Any]) -> str:
    """Return what is wrong with the form of an event; '' if nothing is."""
    data = event.get("data")
    if not event:
        return "the field `event` of this entry is not a JSON object"
    if event.get("specversion") != "1.0":
        return "the event is not a CloudEvent 1.0"
    for name in _MEMBERS:
        if not isinstance(event.get(name), str) or not event[name]:
            return f"the event has no {name}"
    if event["type"] not in list(EventType):
        return f"{event['type']} is not a known event type"
    if not isinstance(data, dict):
        return "the event has no data"
    if event["type"] in LETTERS:
        return _fault_of_import_event(event, data)
    return ""


def _letter_of(event: Mapping[str, Any]) -> str:
    return LETTERS_OF_STUCK.get(_part_of(event), LETTERS[event["type"]])


def _part_of(event: Mapping[str, Any]) -> str:
    """Return the part of an event's id after the import's id and the type; '' for most events."""
    name = event["type"].removeprefix(IMPORT_PREFIX)
    return str(event["id"]).removeprefix(f"{event['data'].get('importId')}/{name}")


def _fault_of_import_event(event: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    name, part = event["type"].removeprefix(IMPORT_PREFIX), _part_of(event)
    if part and (event["type"] != EventType.STUCK or part not in LETTERS_OF_STUCK):
        return "the event's id does not match its import and its type"
    if data.get("outcome") != (name if name in TERMINAL else None):
        return f"the outcome of this {event['type']} event is {data.get('outcome')}"
    return ""
