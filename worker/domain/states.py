"""The states of an import, and the transitions between them, as one table.

Each transition has a letter. `docs/architecture.md` draws them, and `tests/unit/test_states.py`
tests each one.
"""

from enum import StrEnum
from typing import Final, NamedTuple


class State(StrEnum):
    """The state of an import."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class Edge(NamedTuple):
    """A transition between two states. `source` is None for an import that does not exist yet."""

    letter: str
    source: State | None
    target: State
    cause: str


EDGES: Final = (
    Edge("a", None, State.WAITING, "admitted"),
    Edge("b", None, State.REJECTED, "the request is invalid"),
    Edge("c", State.WAITING, State.STARTING, "claimed for a start"),
    Edge("d", State.STARTING, State.WAITING, "to be started again: throttled, conflict, retry"),
    Edge("e", State.STARTING, State.RUNNING, "AWS gave a jobId, or a job was found"),
    Edge("f", State.STARTING, State.SUCCEEDED, "AWS answered with a final status at once"),
    Edge("g", State.STARTING, State.FAILED, "AWS answered with a failure, or attempts ran out"),
    Edge("h", State.STARTING, State.REJECTED, "AWS refused the request for good"),
    Edge("i", State.STARTING, State.TIMED_OUT, "the deadline passed before a jobId was known"),
    Edge("j", State.RUNNING, State.SUCCEEDED, "a poll saw success"),
    Edge("k", State.RUNNING, State.FAILED, "a poll saw failure, or the job is gone"),
    Edge("l", State.RUNNING, State.TIMED_OUT, "the deadline passed"),
    Edge("m", State.WAITING, State.CANCELLED, "cancelled before a start"),
    Edge(
        "n", State.RUNNING, State.CANCELLED, "cancelled: how the job ends changes nothing any more"
    ),
)

TERMINAL: Final = frozenset(edge.target for edge in EDGES) - frozenset(
    edge.source for edge in EDGES if edge.source
)
UNFINISHED: Final = frozenset(State) - TERMINAL


def sources_of(target: State) -> frozenset[State]:
    """Return the states from which `target` can be reached."""
    return frozenset(edge.source for edge in EDGES if edge.target is target and edge.source)
