"""The event stream as an audit reads it: once, from its oldest event on, a short story per import.

It judges what the events say by themselves. Whether they agree with the records is for
`worker.store.promises`.
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
    **{EventType(IMPORT_PREFIX + state): state[0].upper() for state in sorted(TERMINAL)},
}
"""One letter per event of an import: its story is the text of them, in order."""

LETTERS_OF_STUCK: Final = {"/undecided": "u", "/status": "q"}
"""That an import waits for a person, or that its job's status may be final, is told beside it."""

NAMES: Final = {
    **{letter: event for event, letter in LETTERS.items()},
    **{letter: f"{EventType.STUCK} ({part[1:]})" for part, letter in LETTERS_OF_STUCK.items()},
}

_MEMBERS: Final = ("id", "source", "type", "subject", "time")


@dataclass(slots=True)
class Story:
    """What was told of one import: a letter per event, and when the last one came."""

    letters: str = ""
    last_ms: int = 0
    is_checked: bool = False


class Journal:
    """The events up to where it was read. Kept small: a hundred thousand imports are many."""

    def __init__(
        self, redis: "Redis", retention_ms: float, batch_id: str, on_read: Callable[[int], None]
    ) -> None:
        self._redis = redis
        self.retention_ms = retention_ms
        self._batch_id = batch_id
        self._on_read = on_read
        self._cursor = "0-0"
        self._others: dict[str, int] = {}  # ids of events that are no import's, and when they came
        self.stories: dict[str, Story] = {}
        self.faults: list[tuple[str, str]] = []
        """What is wrong with events by themselves: an event's id, and a sentence."""
        self.events = 0
        self.oldest_ms = 0
        """What happened up to then may have been trimmed off the stream."""

    async def read_to(self, entry_id: str) -> None:
        """Read on, up to this entry."""
        while _order(self._cursor) < _order(entry_id):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.xrange(EVENTS.name, f"({self._cursor}", entry_id, READ_AT_ONCE)
                pipeline.xrange(EVENTS.name, count=1)
                entries, oldest = await pipeline.execute()
            self.oldest_ms = _order(oldest[0][0])[0] if oldest else 0
            for found, fields in entries:
                self._read(found, fields)
            self._on_read(self.events)
            self._cursor = entries[-1][0] if len(entries) == READ_AT_ONCE else entry_id

    def story_of(self, import_id: str) -> Story:
        """Return what was told of an import so far."""
        return self.stories.get(import_id) or Story()

    def check_off(self, import_id: str) -> None:
        """Note that an import was looked at."""
        if story := self.stories.get(import_id):
            story.is_checked = True

    def not_checked(self) -> list[str]:
        """Return the imports that were told of, and not looked at."""
        return [name for name, story in self.stories.items() if not story.is_checked]

    def was_told(self, event_id: str, now_ms: int) -> bool:
        """Whether there was this event of a batch, and the batch can't have expired since."""
        told_ms = self._others.get(event_id)
        return told_ms is not None and not self._is_forgotten(told_ms, now_ms)

    def may_be_trimmed(self, at_ms: float) -> bool:
        """Whether an event of that time may have been trimmed off the stream."""
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
            self._tell(event["data"]["importId"], _letter_of(event), at_ms)
        else:
            self._note_other(event["id"], at_ms)

    def _tell(self, import_id: str, letter: str, at_ms: int) -> None:
        story = self.stories.setdefault(import_id, Story())
        if story.letters[-1:].isupper() and self._is_forgotten(story.last_ms, at_ms):
            story.letters = ""  # the id was used again, after its record had expired
        story.letters = intern(story.letters + letter)
        story.last_ms = at_ms

    def _note_other(self, event_id: str, at_ms: int) -> None:
        told_ms = self._others.get(event_id)
        if told_ms is not None and not self._is_forgotten(told_ms, at_ms):
            self.faults.append((event_id, "the event was told more than once"))
        self._others[event_id] = at_ms

    def _is_forgotten(self, told_ms: int, at_ms: int) -> bool:
        return at_ms - told_ms >= self.retention_ms


def _order(entry_id: str) -> tuple[int, int]:
    """Return an entry id as what can be compared: milliseconds, and a number within them."""
    at_ms, _, number = entry_id.partition("-")
    return int(at_ms), int(number or 0)


def _parsed(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _fault_of(event: Mapping[str, Any]) -> str:
    """Return what makes an event no CloudEvent of ours, '' for a good one."""
    data = event.get("data")
    if not event:
        return "the entry holds no JSON object in its field `event`"
    if event.get("specversion") != "1.0":
        return "the event is no CloudEvent 1.0"
    for name in _MEMBERS:
        if not isinstance(event.get(name), str) or not event[name]:
            return f"the event has no {name}"
    if event["type"] not in list(EventType):
        return f"nobody knows events of type {event['type']}"
    if not isinstance(data, dict):
        return "the event has no data"
    if event["type"] in LETTERS:
        return _fault_of_import_event(event, data)
    return ""


def _letter_of(event: Mapping[str, Any]) -> str:
    return LETTERS_OF_STUCK.get(_part_of(event), LETTERS[event["type"]])


def _part_of(event: Mapping[str, Any]) -> str:
    """Return what an event's id has behind the import's and the type's, '' for most."""
    name = event["type"].removeprefix(IMPORT_PREFIX)
    return str(event["id"]).removeprefix(f"{event['data'].get('importId')}/{name}")


def _fault_of_import_event(event: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    name, part = event["type"].removeprefix(IMPORT_PREFIX), _part_of(event)
    if part and (event["type"] != EventType.STUCK or part not in LETTERS_OF_STUCK):
        return "the event's id is not that of its import and its type"
    if data.get("outcome") != (name if name in TERMINAL else None):
        return f"an event of type {event['type']} tells of the outcome {data.get('outcome')}"
    return ""
