"""What a relay tells an observer. The process that runs it passes the observer."""

from typing import Final, Protocol

from worker.relay.sink import Fault
from worker.store.relays import Settlement


class RelayObserver(Protocol):
    """Takes notes. Its methods return at once and never raise."""

    def attempted(self, sink: str, seconds: float) -> None:
        """Note a call to the sink, which took so long."""
        ...

    def failed(self, sink: str, fault: Fault) -> None:
        """Note that an attempt to send one event failed."""
        ...

    def settled(self, sink: str, settlement: Settlement) -> None:
        """Note what became of events."""
        ...

    def lost(self, sink: str, events: int) -> None:
        """Note that events were trimmed off the stream before they were read for the sink."""
        ...


class _Nobody:
    def attempted(self, sink: str, seconds: float) -> None: ...

    def failed(self, sink: str, fault: Fault) -> None: ...

    def settled(self, sink: str, settlement: Settlement) -> None: ...

    def lost(self, sink: str, events: int) -> None: ...


NOBODY: Final[RelayObserver] = _Nobody()
