"""The names of the events. The scripts that change an import's state write the events."""

from enum import StrEnum

from worker.domain.states import State


class EventType(StrEnum):
    """The CloudEvents `type` of each event that workers append."""

    ACCEPTED = "import.accepted"
    STARTED = "import.started"
    STUCK = "import.stuck"
    SUCCEEDED = "import.succeeded"
    FAILED = "import.failed"
    REJECTED = "import.rejected"
    TIMED_OUT = "import.timed_out"
    CANCELLED = "import.cancelled"
    BATCH_COMPLETED = "batch.completed"
    BATCH_PAUSED = "batch.paused"
    BATCH_RESUMED = "batch.resumed"
    LANE_PAUSED = "lane.paused"
    LANE_RESUMED = "lane.resumed"
    UNVERIFIED = "import.unverified"


def end_event(state: State) -> EventType:
    """Return the type of the event with which an import ends in a final state."""
    return EventType(f"import.{state}")
