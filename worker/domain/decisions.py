"""What may follow from an answer: exactly one of these. `worker/domain/rules.py` decides which."""

from dataclasses import dataclass

from worker.domain.answers import Job
from worker.domain.claims import Doubt
from worker.domain.states import State

NO_JOB = Job()

UNKNOWN_OUTCOME = "unknown"
"""The outcome of a late job that AWS no longer knows."""


@dataclass(frozen=True, slots=True)
class Run:
    """The job is under way: keep its id, and poll it after the delay."""

    job: Job
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """The import is over.

    `uncalled` says that the claimed start was not made, so none counts. After
    `verify_after_seconds`, AWS is asked what it shows of the import; 0: it is not.
    """

    state: State
    error: str = ""
    job: Job = NO_JOB
    uncalled: bool = False
    verify_after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PollAgain:
    """The job is still running: poll it again after the delay.

    `stuck` asks for the import's one `import.stuck` event, because the job takes long. `suspicion`
    is set if the job seems to have ended with a status that no setting lists as final. It is one
    sentence for people, and is reported once.
    """

    job: Job
    delay_seconds: float
    stuck: bool = False
    suspicion: str = ""


@dataclass(frozen=True, slots=True)
class Throttle:
    """AWS asked the lane to slow down; the import is requeued unchanged.

    `concurrent` says that too many jobs are unfinished, not that calls come too fast.
    """

    retry_after_seconds: float | None
    limit_type: str
    concurrent: bool = False


@dataclass(frozen=True, slots=True)
class PauseLane:
    """No call of this lane can succeed now; the import is requeued unchanged, after the delay."""

    reason: str
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Requeue:
    """This worker can't make the call, but others can; the import is requeued unchanged."""


@dataclass(frozen=True, slots=True)
class Postpone:
    """The preflight check has no answer yet: check again after the delay, and count no attempt."""

    delay_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Start:
    """No start was made so far, so one may be made now.

    `listed_jobs` are the ids of all jobs that the target had before it; None if AWS gave no list.
    """

    listed_jobs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class WaitBehind:
    """Another job is pending on the target: start later, and count no attempt."""

    delay_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again after the delay; the attempt counts."""

    delay_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Reconcile:
    """List the target's jobs after the delay, before anything else happens to the import."""

    doubt: Doubt
    delay_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """No evidence shows what became of the import: an operator must decide.

    Workers still check with AWS meanwhile. `jobs` are the ids of the jobs that may be the import's
    own.
    """

    doubt: Doubt
    delay_seconds: float
    reason: str
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoteLate:
    """The job of an import that had already ended is over; `outcome` is None if it is unknown."""

    outcome: State | None
    job: Job = NO_JOB
    error: str = ""


@dataclass(frozen=True, slots=True)
class NoteVerified:
    """AWS was asked what it shows of an import that has succeeded; `result` is a `Verification`."""

    result: str
    error: str = ""


Again = Start | WaitBehind | Retry
"""The decisions after which an import waits for another start."""

Decision = (
    Run
    | End
    | PollAgain
    | Throttle
    | PauseLane
    | Requeue
    | Postpone
    | Again
    | Reconcile
    | Undecided
    | NoteLate
    | NoteVerified
)


def delay_of(decision: Decision) -> float | None:
    """Return the seconds until the import's next call; None if the decision does not set them."""
    match decision:
        case Run() | PollAgain() | Postpone() | WaitBehind() | Retry() | Reconcile() | Undecided():
            return decision.delay_seconds
    return None
