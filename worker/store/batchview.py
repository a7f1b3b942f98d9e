"""A batch as it stands, in numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from worker.domain.imports import Import, iso_time
from worker.domain.schedules import AT_ONCE, Schedule
from worker.domain.states import TERMINAL, State
from worker.store.keys import BATCH, HELD, OPENINGS

BATCH_REPLIES: Final = 3
"""How many replies `read_batch` adds to a pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """A batch in numbers: `expected` imports were announced, and `accepted` were admitted.

    `known` counts requests that turned out to be imports of another batch, which count there.
    `by_state` has every state. `completed_at_ms` is on the store's clock, and 0 until the batch is
    complete. `held` imports are held back, because the batch is paused for `paused_reason` or waits
    until its first `canary` imports have ended.

    `progressed_at_ms` is when an import was last admitted, began to run, or ended. It and
    `created_at_ms` are 0 if only an earlier release has written the batch.

    `next_start_ms` is when the schedule lets held imports start next: None if it holds none, and
    infinite if no worker has computed it yet. `read_at_ms` is the time of the reading. Both are on
    the store's clock.
    """

    batch_id: str
    accepted: int
    expected: int
    by_state: Mapping[State, int]
    known: int = 0
    completed_at_ms: int = 0
    held: int = 0
    paused_reason: str = ""
    canary: int = 0
    created_at_ms: int = 0
    progressed_at_ms: int = 0
    schedule: Schedule = AT_ONCE
    next_start_ms: float | None = None
    read_at_ms: float = field(default=0.0, compare=False)

    @classmethod
    def from_fields(
        cls,
        batch_id: str,
        fields: Mapping[str, str],
        held: int,
        next_start_ms: float | None,
        read_at_ms: float,
    ) -> Self:
        """Build from the text fields of a batch's hash; unknown fields are ignored."""
        return cls(
            batch_id=batch_id,
            accepted=int(fields.get("accepted", 0)),
            expected=int(fields.get("expected", 0)),
            known=int(fields.get("known", 0)),
            by_state={state: int(fields.get(state, 0)) for state in State},
            completed_at_ms=int(float(fields.get("completed_at_ms", 0))),
            held=held,
            paused_reason=fields.get("stopped_reason", ""),
            canary=int(fields.get("canary", 0)) if fields.get("gate") == "canary" else 0,
            created_at_ms=int(float(fields.get("created_at_ms", 0))),
            progressed_at_ms=int(float(fields.get("progressed_at_ms", 0))),
            schedule=Schedule.from_fields(fields),
            next_start_ms=next_start_ms,
            read_at_ms=read_at_ms,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the counts as the JSON object that users get."""
        return {
            "batchId": self.batch_id,
            "total": self.total,
            "accepted": self.accepted,
            "known": self.known,
            "expected": self.expected,
            "finished": self.finished,
            "completed": self.completed,
            "held": self.held,
            "stoppedReason": self.paused_reason or None,
            "schedule": self.schedule_as_json() if self.schedule else None,
            "states": {str(state): number for state, number in self.by_state.items()},
        }

    def schedule_as_json(self) -> dict[str, Any]:
        """Return the schedule, and when it lets an import start next, as a JSON object."""
        next_ms = self.next_start_ms if self.is_scheduled else None
        is_known = next_ms is not None and not math.isinf(next_ms)
        next_start = iso_time(round(next_ms)) if next_ms is not None and is_known else None
        return {**self.schedule.as_json(), "nextStartAt": next_start}

    @property
    def is_paused(self) -> bool:
        """Whether no import of the batch starts until an operator resumes it."""
        return bool(self.paused_reason)

    @property
    def is_scheduled(self) -> bool:
        """Whether held imports wait for a time at which the schedule lets them start."""
        return not self.is_paused and (self.next_start_ms or 0) > self.read_at_ms

    @property
    def is_idle(self) -> bool:
        """Whether no import of the batch is starting or running."""
        return not self.by_state[State.STARTING] and not self.by_state[State.RUNNING]

    @property
    def total(self) -> int:
        """How many imports the batch has, as far as is known."""
        return max(self.accepted + self.known, self.expected)

    @property
    def finished(self) -> int:
        """How many requests the batch no longer waits for."""
        return self.known + sum(self.by_state[state] for state in TERMINAL)

    @property
    def not_arrived(self) -> int:
        """How many announced requests have not arrived."""
        return max(0, self.expected - self.accepted - self.known)

    @property
    def left(self) -> int:
        """How many requests are not over yet, or have not arrived."""
        return self.total - self.finished

    @property
    def unsuccessful(self) -> int:
        """How many imports ended in a state other than `succeeded`."""
        return sum(self.by_state[state] for state in TERMINAL - {State.SUCCEEDED})

    @property
    def completed(self) -> bool:
        """Whether all announced imports have arrived, and all that arrived are over."""
        return 0 < self.total <= self.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How a batch was submitted, and what its stop rule did.

    `canary` is 0 and `stop_percent` None if the batch has no such rule. `pauses` counts how often
    the batch was paused. `paused_at_ms` is on the store's clock, and 0 unless it is paused now.
    """

    canary: int
    stop_percent: float | None
    pauses: int
    paused_at_ms: int


@dataclass(frozen=True, slots=True)
class MemberPage:
    """Some of a batch's imports, and how many more have no record any more."""

    items: list[Import]
    expired: int


def read_batch(pipeline: Any, batch_id: str) -> None:
    """Add the commands that read a batch to a pipeline; `batch_of` takes their replies."""
    pipeline.hgetall(BATCH.on(pipeline) + batch_id)
    pipeline.zcard(HELD.on(pipeline) + batch_id)
    pipeline.zscore(OPENINGS.on(pipeline), batch_id)


def batch_of(batch_id: str, replies: Sequence[Any], time: tuple[int, int]) -> BatchCounts | None:
    """Return a batch from replies, and the reply to TIME; None if it is not known (any more)."""
    fields, held, next_start_ms = replies
    seconds, microseconds = time
    read_at_ms = seconds * 1000 + microseconds / 1000
    if not fields:
        return None
    return BatchCounts.from_fields(batch_id, fields, held, next_start_ms, read_at_ms)
