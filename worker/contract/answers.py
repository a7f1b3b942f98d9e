"""Models of what the HTTP server answers, for its OpenAPI document."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from worker.contract.events import Count, ImportData, Time

State = Literal[
    "waiting", "starting", "running", "succeeded", "failed", "rejected", "timed_out", "cancelled"
]


class _Answer(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, serialize_by_alias=True, use_attribute_docstrings=True
    )


class Accepted(_Answer):
    """A request that was admitted."""

    import_id: str
    """The import. It is that of an earlier request if this one repeats its idempotency key."""


class ImportStatus(ImportData):
    """An import as it stands."""

    state: State
    """Where it stands."""


class BatchSchedule(_Answer):
    """When a batch may start imports. What does not apply is `null`."""

    start_at: Time | None
    """None starts before this time."""
    window: str | None
    """The window in which imports may start, as it was given."""
    max_per_hour: Count | None
    """How many may start in an hour."""
    next_start_at: Time | None
    """When the next import may start, if all that wait are waiting for that."""


class BatchStatus(_Answer):
    """A batch as it stands, in numbers."""

    batch_id: str
    """The batch."""
    total: Count
    """How many requests it has, as far as is known."""
    accepted: Count
    """How many imports were admitted."""
    known: Count
    """How many requests asked for an import of another batch."""
    expected: Count
    """How many requests were announced."""
    finished: Count
    """How many requests are over."""
    completed: bool
    """Whether all announced requests have arrived, and all that arrived are over."""
    held: Count
    """How many imports wait for the batch's canaries, or for an operator to resume it."""
    stopped_reason: str | None
    """Why the batch is paused."""
    schedule: BatchSchedule | None
    """When it may start imports; `null` if at any time."""
    states: Mapping[State, Count]
    """How many imports are in each state."""


class MemberProblem(_Answer):
    """What is wrong with one member."""

    member: str
    """The member, or `request` for the request as a whole."""
    message: str
    """What is wrong with it."""
    position: Count | None = None
    """The request's position in the array, from 0. Absent if the body is one request."""


class ProblemDetails(_Answer):
    """An error, as RFC 9457 describes it."""

    title: str
    """The name of the HTTP status."""
    status: int
    """The HTTP status."""
    detail: str
    """What is wrong, in a sentence."""
    errors: list[MemberProblem] = []
    """Each wrong member of each request."""
