"""The events that a relay has read for a sink: which of them may be sent now.

The events of a subject are sent one after another, in their order. Subjects don't wait for each
other. Nothing here reads a clock or sends anything.
"""

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from worker.relay.event import Event
from worker.store.relays import Entry

SIZE: Final = 500
"""How many events of a sink are in memory. It bounds how many are sent twice after a crash."""


@dataclass(slots=True, eq=False)
class Item:
    """An event, its entry in the store, and its attempts.

    `attempts` are those that counted. `accepted_before` is how many events the sink had accepted
    when the last attempt failed, or when the event was read.
    """

    entry: Entry
    event: Event
    attempts: int = 0
    accepted_before: int = 0


class Window:
    """Events in the order of their subjects."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Item]] = {}
        # (when it is due, a number that keeps the order, the subject), for each subject whose first
        # event is not being sent
        self._due: list[tuple[float, int, str]] = []
        self._number = 0
        self._size = 0

    @property
    def room(self) -> int:
        """How many more events fit."""
        return max(0, SIZE - self._size)

    @property
    def size(self) -> int:
        """How many events are here."""
        return self._size

    @property
    def next_due(self) -> float | None:
        """When the next event is due; None if none waits."""
        return self._due[0][0] if self._due else None

    def add(self, item: Item, now: float) -> None:
        """Add an event behind those of its subject."""
        queue = self._queues.setdefault(item.event.subject, deque())
        queue.append(item)
        self._size += 1
        if len(queue) == 1:
            self._schedule(item.event.subject, now)

    def take(self, now: float, most: int, most_bytes: int) -> list[Item]:
        """Return events to send together: due ones, each of another subject, the oldest first."""
        taken: list[Item] = []
        size = 0
        while self._due and len(taken) < most and self._due[0][0] <= now:
            item = self._queues[self._due[0][2]][0]
            size += len(item.event.text.encode())
            if taken and size > most_bytes:
                break
            heappop(self._due)
            taken.append(item)
        return taken

    def remove(self, item: Item, now: float) -> None:
        """Remove an event that was taken; the next of its subject is due."""
        subject = item.event.subject
        queue = self._queues[subject]
        queue.popleft()
        self._size -= 1
        if queue:
            self._schedule(subject, now)
        else:
            del self._queues[subject]

    def postpone(self, item: Item, due: float) -> None:
        """Let an event that was taken, and those behind it, wait until `due`."""
        self._schedule(item.event.subject, due)

    def _schedule(self, subject: str, due: float) -> None:
        self._number += 1
        heappush(self._due, (due, self._number, subject))
