"""A batch as it stands, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from worker.domain.imports import Import
from worker.domain.states import TERMINAL, State


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """A batch in numbers: `expected` imports were announced, and `accepted` were admitted.

    `known` counts requests that turned out to be imports of another batch, which count there.
    `by_state` has every state. `completed_at_ms` is on the store's clock, and 0 until the batch is
    complete. `held` imports are held back, because the batch is paused for `paused_reason` or waits
    until its first `canary` imports have ended.
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

    @property
    def is_paused(self) -> bool:
        """Whether no import of the batch starts until an operator resumes it."""
        return bool(self.paused_reason)

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
