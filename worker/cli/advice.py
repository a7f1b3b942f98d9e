"""What the user can do about an import that has ended."""

from enum import StrEnum, auto

from worker.domain.imports import Import
from worker.domain.states import State


class Advice(StrEnum):
    """The next step. Each command has its own words for it."""

    NOTHING = auto()
    RETRIED = auto()  # nothing: it has been retried
    SUCCEEDED_LATE = auto()  # nothing: its job succeeded after the import had ended
    FIX_REQUEST = auto()  # the request is invalid, so a retry would fail again
    RETRY = auto()  # fix the cause, then retry


def advice_for(item: Import) -> Advice:
    """Return the next step for an import that has ended."""
    if item.state is State.SUCCEEDED:
        return Advice.NOTHING
    if item.retried_by:
        return Advice.RETRIED
    if item.late_outcome == State.SUCCEEDED:
        return Advice.SUCCEEDED_LATE
    if not item.first_start_at_ms and item.state is State.REJECTED:
        return Advice.FIX_REQUEST
    return Advice.RETRY
