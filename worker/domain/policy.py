"""What the operator allows: attempts, intervals, deadlines, and which statuses are final."""

from dataclasses import dataclass

from worker.domain.states import State

POLL_GROWTH = 1.5
JITTER = 0.15
RETRY_MAX_SECONDS = 300.0
LATE_SHARE = 0.1
LATE_MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Operator's choices that decisions follow. Statuses are upper case; times are seconds.

    `settle_seconds` is how long the remote side's job list may lag behind what it lists, and
    `list_memory_seconds` how long it shows a job at least; with `assume_finished_listed` it is
    taken to show jobs that are over, until it is seen not to. `missing_grace_seconds` is how long a
    new job may answer 404 to a poll.
    """

    max_attempts: int
    poll_min_seconds: float
    poll_max_seconds: float
    stuck_seconds: float
    deadline_seconds: float
    success_statuses: frozenset[str]
    failure_statuses: frozenset[str]
    settle_seconds: float
    missing_grace_seconds: float
    list_memory_seconds: float = 3600.0
    assume_finished_listed: bool = True

    def outcome_of(self, status: str) -> State | None:
        """Return the terminal state that a job's status means, None while it is under way."""
        status = status.upper()
        if status in self.success_statuses:
            return State.SUCCEEDED
        return State.FAILED if status in self.failure_statuses else None

    def poll_delay(self, polls: int, jitter: float) -> float:
        """Return the seconds until the next poll after `polls` of them; `jitter` is in [0, 1)."""
        # The exponent is bounded: a job polled for a month must not overflow a float.
        delay = self.poll_min_seconds * POLL_GROWTH ** min(polls, 64)
        spread = 1 + JITTER * (2 * jitter - 1)
        return min(max(delay * spread, self.poll_min_seconds), self.poll_max_seconds)

    def late_delay(self, age_seconds: float) -> float:
        """Return the seconds until the next poll of a job whose import is over."""
        return min(max(self.poll_max_seconds, age_seconds * LATE_SHARE), LATE_MAX_SECONDS)

    def retry_delay(self, attempts: int, jitter: float) -> float:
        """Return the seconds before attempt `attempts + 1`: full jitter over a doubling bound.

        Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        bound = min(2.0 ** min(attempts, 16), RETRY_MAX_SECONDS)
        return 0.5 + jitter * bound
