"""What the engine tells a tracer. The runtime passes one if this process writes spans."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

from worker.domain.claims import Claim
from worker.domain.events import EventType
from worker.domain.imports import Import
from worker.domain.traces import TraceContext

_claim: ContextVar[Claim | None] = ContextVar("claim", default=None)
claim_in_progress: Final = _claim.get
"""Returns the claim that is carried out in this context; None in any other."""


class Tracer(Protocol):
    """Writes spans. Its methods return at once and never raise."""

    def begin(self, import_id: str, given: TraceContext | None) -> TraceContext | None:
        """Return the context of a new import, given that of its request; None for no trace."""
        ...

    def appended(
        self, import_id: str, trace: TraceContext | None, event: EventType, began_ns: int
    ) -> None:
        """Note that the script that was called at `began_ns` (Unix time) appended an event."""
        ...

    def ended(self, item: Import) -> None:
        """Note that an import is over; call it once for each import."""
        ...


class Untraced:
    """Writes nothing. Imports keep the contexts that came with their requests."""

    def begin(self, import_id: str, given: TraceContext | None) -> TraceContext | None:  # noqa: ARG002
        """Return what was given."""
        return given

    def appended(
        self, import_id: str, trace: TraceContext | None, event: EventType, began_ns: int
    ) -> None:
        """Do nothing."""

    def ended(self, item: Import) -> None:
        """Do nothing."""


UNTRACED: Final[Tracer] = Untraced()


@contextmanager
def carrying_out(claim: Claim) -> Iterator[None]:
    """Make `claim` the one in progress."""
    token = _claim.set(claim)
    try:
        yield
    finally:
        _claim.reset(token)


def trace_fields(item: Import) -> dict[str, str]:
    """Return the fields of log lines about an import that belongs to a trace."""
    trace = item.trace
    return trace.for_logs() if trace else {}
