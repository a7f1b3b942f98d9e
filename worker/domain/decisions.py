"""From an answer to what happens next. The table of `docs/architecture.md`, row by row, pure.

Each `decide_*` takes the answer to one kind of call, the claim under which it was made, the
operator's policy and a jitter in [0, 1), and returns exactly one decision.
"""

from dataclasses import dataclass
from enum import StrEnum

from worker.domain.answers import Answer, Job, Kind
from worker.domain.imports import Import
from worker.domain.policy import Policy
from worker.domain.states import State

CREATED_SLACK_SECONDS = 2.0
"""How much older than our call a job may look and still be ours: AWS's times have their grain."""


NO_JOB = Job()


class Call(StrEnum):
    """Which call a claim is for."""

    START = "start"
    POLL = "poll"
    RECONCILE = "reconcile"


class Doubt(StrEnum):
    """Why the remote side must be asked before anything else happens to an import."""

    UNKNOWN = "unknown"  # a start whose effect is not known
    REFUSED = "refused"  # a 400, which may hide a job that is pending on the target
    CONFLICT = "conflict"  # a pending job, which may be that of our own earlier, doubtful call
    GONE = "gone"  # a running job that polls no longer find
    LOST = "lost"  # the store was lost, and nobody remembers whether a start was made


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to make one call for one import, until its lease ends.

    `grant` is the limiter's leave to make it, to be brought back with the answer; `answered` says
    that a full answer came that was no 429. `age_seconds` is the time since the first start that
    may have taken effect, `taken_at` this process's monotonic clock before the claim was asked for,
    in seconds; `probe` says that the lane is paused and this one call tells whether it may go on;
    `earlier_job_id` is the last job of an earlier import of the same target, never to be taken for
    this one's; `lasting` says that no failover of the store forgets the claim.
    """

    call: Call
    lease: str
    item: Import
    age_seconds: float
    grant: str = ""
    answered: bool = False
    taken_at: float = 0.0
    probe: bool = False
    earlier_job_id: str = ""
    lasting: bool = True


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
    """Still running. `stuck` asks for the one `import.stuck` event."""

    job: Job
    delay_seconds: float
    stuck: bool = False


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
    """No start was made after all: it may be made now."""


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
class NoteLate:
    """The job of an ended import is over, too; `outcome` is None where nobody knows how."""

    outcome: State | None
    job: Job = NO_JOB
    error: str = ""


Again = Start | WaitBehind | Retry
"""The decisions that let an import wait for another start."""

Decision = Run | End | PollAgain | Throttle | PauseLane | GiveBack | Again | Verify | NoteLate


def decide_start(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    """Decide after the call that starts the remote job."""
    match answer.kind:
        case Kind.OK if answer.job.job_id:
            return _follow(answer.job, policy, jitter)
        case Kind.OK if answer.job.error or policy.outcome_of(answer.job.status):
            return _end_of(answer.job, policy)
        case Kind.THROTTLED:
            return Throttle(answer.retry_after_seconds, answer.limit_type, answer.concurrent)
        case Kind.CREDENTIALS:
            return PauseLane(answer.error)
        case Kind.CLOCK:
            return GiveBack()
        case Kind.NOT_FOUND:
            return End(State.REJECTED, answer.error)
        case Kind.CONFLICT if claim.item.doubts:
            return Verify(Doubt.CONFLICT, 0.0, answer.error)
        case Kind.CONFLICT:
            return _wait_behind(claim, policy, answer.error)
        case Kind.BAD_REQUEST:
            return Verify(Doubt.REFUSED, 0.0, answer.error)
        case _:  # OK without a jobId, UNREACHABLE, UNKNOWN
            error = answer.error or "the answer held no jobId"
            return Verify(Doubt.UNKNOWN, policy.settle_seconds, error)


def decide_poll(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    """Decide after a poll of a running job."""
    if claim.item.is_terminal:
        return _decide_late(answer, claim, policy)
    match answer.kind:
        case Kind.OK if policy.outcome_of(answer.job.status):
            return _end_of(answer.job, policy)
        case Kind.THROTTLED:
            return _throttle(answer)
        case Kind.CREDENTIALS:
            return PauseLane(answer.error)
        case Kind.CLOCK:
            return GiveBack()
        case Kind.NOT_FOUND if _known_seconds(claim) >= policy.missing_grace_seconds:
            return _verify_gone(answer, claim, policy)
        case Kind.BAD_REQUEST:
            return _verify_gone(answer, claim, policy)
    return _poll_again(answer, claim, policy, jitter)


def decide_reconcile(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    """Decide after the list of the target's jobs was asked for because of a doubt."""
    match answer.kind:
        case Kind.THROTTLED:
            return _throttle(answer)
        case Kind.CREDENTIALS:
            return PauseLane(answer.error)
        case Kind.CLOCK:
            return GiveBack()
        case Kind.UNREACHABLE | Kind.UNKNOWN:
            return _ask_again(answer, claim, policy, jitter)
        case Kind.BAD_REQUEST | Kind.CONFLICT if _may_have_started(claim.item):
            return _ask_again(answer, claim, policy, jitter)  # no list, so no proof of absence
    if claim.item.state is State.RUNNING:
        return _decide_gone(answer, claim, policy, jitter)
    return _decide_doubtful_start(answer, claim, policy, jitter)


def deadline_of(claim: Claim, policy: Policy) -> float:
    """Return the seconds that this import may take from its first start on."""
    return claim.item.request.deadline_seconds or policy.deadline_seconds


def _throttle(answer: Answer) -> Throttle:
    return Throttle(answer.retry_after_seconds, answer.limit_type)


def _may_have_started(item: Import) -> bool:
    """Return whether a call may have started a job; every call was refused otherwise."""
    return item.doubts > 0 or item.doubt == Doubt.LOST


def _decide_doubtful_start(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    ours = _our_job(answer.jobs, claim)
    if ours is not None:
        return _follow(ours, policy, jitter)
    doubt, error = Doubt(claim.item.doubt), claim.item.doubt_error
    if claim.item.doubts and claim.age_seconds >= deadline_of(claim, policy):
        return End(State.TIMED_OUT, f"no job was started before the deadline; last: {error}")
    if doubt is Doubt.CONFLICT or any(_is_pending(job, policy) for job in answer.jobs):
        return _wait_behind(claim, policy, error)
    if doubt is Doubt.REFUSED:
        return End(State.REJECTED, error)
    if doubt is Doubt.LOST:
        return Start()
    if claim.item.attempts >= policy.max_attempts:
        return End(State.FAILED, f"gave up after {claim.item.attempts} attempts; last: {error}")
    return Retry(policy.retry_delay(claim.item.attempts, jitter), error)


def _decide_late(answer: Answer, claim: Claim, policy: Policy) -> Decision:
    """Decide after a poll of a job whose import is over: nothing can end that again."""
    match answer.kind:
        case Kind.OK if outcome := policy.outcome_of(answer.job.status):
            return NoteLate(outcome, answer.job, answer.job.error)
        case Kind.THROTTLED:
            return _throttle(answer)
        case Kind.CREDENTIALS:
            return PauseLane(answer.error)
        case Kind.CLOCK:
            return GiveBack()
        case Kind.NOT_FOUND if claim.age_seconds >= policy.missing_grace_seconds:
            return NoteLate(None, error=answer.error)
        case Kind.BAD_REQUEST:
            return NoteLate(None, error=answer.error)
    return PollAgain(answer.job, policy.late_delay(claim.age_seconds))


def _decide_gone(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    for job in answer.jobs:
        if job.job_id == claim.item.job_id:
            return decide_poll(Answer(kind=Kind.OK, jobs=(job,)), claim, policy, jitter)
    return End(State.FAILED, f"AWS no longer knows the job: {claim.item.doubt_error}")


def _known_seconds(claim: Claim) -> float:
    """Return how long the jobId has been known. The first start may have been long before."""
    item = claim.item
    return claim.age_seconds - (item.started_at_ms - item.first_start_at_ms) / 1000


def _verify_gone(answer: Answer, claim: Claim, policy: Policy) -> Verify:
    """Ask for the list once it can't lag behind the job any more."""
    delay = max(0.0, policy.settle_seconds - _known_seconds(claim))
    return Verify(Doubt.GONE, delay, answer.error)


def _our_job(jobs: tuple[Job, ...], claim: Claim) -> Job | None:
    """Return the job that our own doubtful call started; the oldest, should there be several.

    Of an import that was lost it is the newest: it may have been tried more than once.
    """
    if not _may_have_started(claim.item):
        return None
    oldest = claim.age_seconds + CREATED_SLACK_SECONDS
    candidates = [
        job
        for job in jobs
        if job.created_seconds_ago is not None
        and -CREATED_SLACK_SECONDS <= job.created_seconds_ago <= oldest
        and job.job_id != claim.earlier_job_id
    ]
    choose = min if claim.item.doubt == Doubt.LOST else max
    return choose(candidates, key=lambda job: job.created_seconds_ago or 0.0, default=None)


def _is_pending(job: Job, policy: Policy) -> bool:
    return bool(job.status) and policy.outcome_of(job.status) is None


def _follow(job: Job, policy: Policy, jitter: float) -> Decision:
    if policy.outcome_of(job.status):
        return _end_of(job, policy)
    return Run(job, policy.poll_delay(0, jitter))


def _end_of(job: Job, policy: Policy) -> End:
    state = policy.outcome_of(job.status) or State.FAILED
    if state is State.SUCCEEDED:
        return End(state, job=job)
    return End(state, job.error or f"the job ended with status {job.status}", job)


def _poll_again(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    remaining = deadline_of(claim, policy) - claim.age_seconds
    if remaining <= 0:
        seen = answer.job.status or claim.item.status or "unknown"
        return End(
            State.TIMED_OUT,
            f"not finished within {deadline_of(claim, policy):g} s; last status {seen}"
            + (f"; last answer: {answer.error}" if answer.error else ""),
        )
    delay = policy.poll_delay(claim.item.polls, jitter)
    stuck = claim.age_seconds >= policy.stuck_seconds and not claim.item.stuck
    return PollAgain(answer.job, min(delay, max(remaining, policy.poll_min_seconds)), stuck)


def _ask_again(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    # Of an import that was lost, nobody knows since when the deadline runs.
    if claim.age_seconds >= deadline_of(claim, policy) and claim.item.doubt != Doubt.LOST:
        return End(
            State.TIMED_OUT,
            f"AWS did not say before the deadline whether a job runs; last answer: {answer.error}",
        )
    doubt = Doubt(claim.item.doubt)
    delay = policy.poll_delay(claim.item.polls, jitter)
    return Verify(doubt, delay, claim.item.doubt_error)


def _wait_behind(claim: Claim, policy: Policy, error: str) -> WaitBehind:
    delay = policy.poll_min_seconds * 2.0 ** min(claim.item.conflicts, 16)
    return WaitBehind(min(delay, policy.poll_max_seconds), error)
