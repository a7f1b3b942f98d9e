"""What a sink is: something that takes events, and says of each whether it has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Protocol

from worker.relay.event import Event


class Fault(StrEnum):
    """What a failure may be due to. It decides whether the failure counts as an attempt."""

    EVENT = auto()
    """The event: the sink refuses it. The failure counts."""
    UNCLEAR = auto()
    """The event or the sink. It counts if the sink has taken another event meanwhile."""
    SINK = auto()
    """The sink: it can't be reached, or asks for patience. It does not count."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The sink has the event."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The sink may not have the event. `retry_after_seconds` is how long it asks to wait."""

    reason: str
    fault: Fault
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The sink wants no more events, ever."""

    reason: str


Outcome = Delivered | Failed | Gone


class Sink(Protocol):
    """Sends events to one system."""

    most: int
    """How many events one call of `send` takes."""

    most_bytes: int
    """How many bytes of text all events of one call may have together."""

    async def send(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Send events, no two of which have the same subject; return what became of each."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
