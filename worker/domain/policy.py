"""What the operator has set: attempts, intervals, deadlines, and which statuses are final."""

from dataclasses import dataclass

from worker.domain.states import State

POLL_GROWTH = 1.5
JITTER = 0.15
RETRY_MAX_SECONDS = 300.0
LATE_SHARE = 0.1
LATE_MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that decisions follow. Statuses are in upper case; times are in seconds.

    `settle_seconds` is how long AWS's job lists may lag. `list_memory_seconds` is for how long at
    least they show a job. With `assume_finished_listed`, lists are assumed to show jobs that are
    over, until a lane shows otherwise. `missing_grace_seconds` is for how long polls of a new job
    may answer 404. `operations` are the names of all operations that a job may belong to. With
    `verify`, AWS is asked what it shows of each import that has succeeded.
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
    operations: tuple[str, ...] = ()
    verify: bool = False

    @property
    def verify_after_seconds(self) -> float:
        """How soon after an import's success AWS is asked what it shows of it; 0: never."""
        return self.poll_min_seconds if self.verify else 0.0

    def outcome_of(self, status: str) -> State | None:
        """Return the terminal state that a job's status means; None while the job is under way."""
        status = status.upper()
        if status in self.success_statuses:
            return State.SUCCEEDED
        return State.FAILED if status in self.failure_statuses else None

    def poll_delay(self, polls: int, jitter: float) -> float:
        """Return the seconds until the next poll after `polls` of them; `jitter` is in [0, 1)."""
        # The exponent is bounded, so that a job that is polled for a month does not overflow a
        # float.
        delay = self.poll_min_seconds * POLL_GROWTH ** min(polls, 64)
        return self.within_poll_bounds(delay * spread(jitter))

    def within_poll_bounds(self, delay_seconds: float) -> float:
        """Return the nearest delay that an operator allows between two polls."""
        return min(max(delay_seconds, self.poll_min_seconds), self.poll_max_seconds)

    def late_delay(self, age_seconds: float) -> float:
        """Return the seconds until the next poll of a job whose import is already over."""
        return min(max(self.poll_max_seconds, age_seconds * LATE_SHARE), LATE_MAX_SECONDS)

    def retry_delay(self, attempts: int, jitter: float) -> float:
        """Return the seconds before attempt `attempts + 1`: full jitter, with a bound that doubles.

        Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        bound = min(2.0 ** min(attempts, 16), RETRY_MAX_SECONDS)
        return 0.5 + jitter * bound


def spread(jitter: float) -> float:
    """Return the factor by which a delay varies, so that polls of many jobs do not coincide."""
    return 1 + JITTER * (2 * jitter - 1)
