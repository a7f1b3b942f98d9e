"""What may follow from an answer: exactly one of these; `worker/domain/rules.py` says which."""

from dataclasses import dataclass

from worker.domain.answers import Job
from worker.domain.claims import Doubt
from worker.domain.states import State

NO_JOB = Job()


@dataclass(frozen=True, slots=True)
class Run:
    """The job is under way: keep its id, poll it after a while."""

    job: Job
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """The import is over."""

    state: State
    error: str = ""
    job: Job = NO_JOB


@dataclass(frozen=True, slots=True)
class PollAgain:
    """Still running. `stuck` asks for the one `import.stuck` event of a job that takes long.

    `suspicion` is not empty when the job seems to have ended with a status that no setting calls
    final: one sentence for people, told once.
    """

    job: Job
    delay_seconds: float
    stuck: bool = False
    suspicion: str = ""


@dataclass(frozen=True, slots=True)
class Throttle:
    """The lane was told to slow down; the import goes back unharmed.

    `concurrent` says that too many jobs are unfinished, not that calls come too fast.
    """

    retry_after_seconds: float | None
    limit_type: str
    concurrent: bool = False


@dataclass(frozen=True, slots=True)
class PauseLane:
    """Nothing on this lane can work now; the import goes back unharmed."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """This worker can't make the call, others can; the import goes back unharmed."""


@dataclass(frozen=True, slots=True)
class Start:
    """No start was made so far: it may be made now.

    `listed_jobs` are the ids of all jobs that the target has before it; None where no list told.
    """

    listed_jobs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class WaitBehind:
    """Another job is pending on the target; start later, no attempt counted."""

    delay_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again after a while; the attempt counts."""

    delay_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Ask the remote side for the target's jobs before anything else."""

    doubt: Doubt
    delay_seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """No evidence tells what became of the import: it waits for a person to decide.

    It is asked about again meanwhile. `jobs` are the ids of those that may be its own.
    """

    doubt: Doubt
    delay_seconds: float
    reason: str
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoteLate:
    """The job of an ended import is over, too; `outcome` is None where nobody knows how."""

    outcome: State | None
    job: Job = NO_JOB
    error: str = ""


Again = Start | WaitBehind | Retry
"""The decisions that let an import wait for another start."""

Decision = (
    Run | End | PollAgain | Throttle | PauseLane | GiveBack | Again | Verify | Undecided | NoteLate
)
