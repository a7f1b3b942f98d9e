"""The reference model of the state machine: what the remote API really did, and which states an
import may have. It knows nothing of Redis, queues or leases."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from typing import Any, Final

from worker.domain.answers import Answer, Job, Kind
from worker.domain.claims import Call, Claim
from worker.domain.imports import Import
from worker.domain.outcomes import Verdict
from worker.domain.policy import Policy
from worker.domain.states import TERMINAL, State

POLICY: Final = Policy(
    max_attempts=3,
    poll_min_seconds=1,
    poll_max_seconds=10,
    stuck_seconds=40,
    deadline_seconds=100,
    success_statuses=frozenset({"COMPLETED"}),
    failure_statuses=frozenset({"FAILED"}),
    settle_seconds=12,
    missing_grace_seconds=20,
)
LAGS: Final = (0.0, POLICY.settle_seconds - 0.5)
"""How long the list may lag behind a job: less than the settle time."""

NO_ZONE_SECONDS: Final = 14 * 3600.0
FORGET_SECONDS: Final = 15.0
NEAR_SECONDS: Final = 3.0
"""A job that ended this long before a start may be taken for one that runs beside it."""


@dataclass(slots=True)
class BatchSchedule:
    """When a batch may start imports: not before `start_at`, not while `closed`, and in a pace.

    A batch with a pace starts `BURST` imports at once, and then `PER_SECOND`.
    """

    start_at: float = -math.inf
    closed: bool = False
    paced: bool = False
    _tokens: float = 0.0
    _at: float = 0.0

    def pace(self, now: float) -> None:
        """Set the pace, if there is none."""
        if not self.paced:
            self.paced, self._tokens, self._at = True, BURST, now

    def note_start(self, now: float) -> None:
        """Record that an import of the batch starts; it must be allowed."""
        assert not self.closed, "a batch starts an import outside its window"
        assert now >= self.start_at, "a batch starts an import before its time"
        if self.paced:
            self._tokens = min(BURST, self._tokens + (now - self._at) * PER_SECOND) - 1
            self._at = now
            assert self._tokens > -MOMENT, "a batch starts more imports than an hour may have"


MAX_PER_HOUR: Final = 50
BURST: Final = 1 + MAX_PER_HOUR // 60
PER_SECOND: Final = (MAX_PER_HOUR + 1 - BURST) / 3600
MOMENT: Final = 0.01
"""Of a start: the clocks of the store and of the model are read a moment apart."""


class Clock(StrEnum):
    """How the remote API's jobs report when they were created."""

    GOOD = auto()
    ABSENT = auto()
    NO_ZONE = auto()  # an hour off, without a time zone
    WRONG = auto()  # an hour early


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiFacts:
    """Undocumented behavior that the remote API may have.

    `word` is the API's name for our jobs in a single answer, `list_word` in lists. `other_word` is
    its name for other parties' jobs; with `others_block` false, these may run beside ours. The API
    may hide finished jobs (`hides_finished`), or forget them soon (`forgets`).
    """

    clock: Clock = Clock.GOOD
    word: str = "ImportBackendAuth"
    list_word: str = "ImportBackendAuth"
    other_word: str = "ImportBackendAuth"
    others_block: bool = True
    hides_finished: bool = False
    forgets: bool = False

    @property
    def policy(self) -> Policy:
        """What an operator sets who knows whether jobs are forgotten or hidden."""
        memory_seconds = FORGET_SECONDS - 1 if self.forgets else POLICY.list_memory_seconds
        return replace(
            POLICY,
            list_memory_seconds=memory_seconds,
            assume_finished_listed=not self.hides_finished,
        )


OUTCOMES: Final = {"COMPLETED": State.SUCCEEDED, "FAILED": State.FAILED}
PLACES: Final[dict[State, frozenset[str]]] = {
    State.WAITING: frozenset({"waiting", "delayed", "parked", "held"}),
    State.STARTING: frozenset({"leases", "polls"}),
    State.RUNNING: frozenset({"leases", "polls"}),
    **{state: frozenset() for state in TERMINAL},
}
"""The queues of which an import in each state is in exactly one. A state without any is in none."""

FOLLOWED: Final = frozenset({"late", "leases"})
"""The queues of an import that ended before its job, while the job's end is still to be recorded.
"""


def is_followed(item: Import) -> bool:
    """Return whether the end of an import's job is still to be recorded."""
    gave_up = item.state in {State.TIMED_OUT, State.CANCELLED}
    return gave_up and bool(item.job_id) and not item.late_outcome


class Behavior(StrEnum):
    """How the remote API handles the next call."""

    TRUTH = auto()
    SUCCESS = auto()  # a start whose job has ended when it answers
    FAILURE = auto()
    ODD_STATUS = auto()
    LOST = auto()  # it takes effect, and the answer is a 504
    LOST_AND_OVER = auto()  # the same, and the job ends before the next call
    RESET = auto()  # it takes effect, but the connection seems to be refused
    NO_JOB_ID = auto()  # it takes effect, and the answer has no job id
    FAILED_BEFORE = auto()  # a 504 without effect
    UNREACHABLE = auto()
    ERROR = auto()  # a 200 with an error instead of a job
    THROTTLED = auto()
    CROWDED = auto()
    CREDENTIALS = auto()
    CLOCK = auto()
    NOT_FOUND = auto()
    BAD_REQUEST = auto()
    CONFLICT = auto()


EFFECTIVE: Final = {
    Behavior.TRUTH,
    Behavior.SUCCESS,
    Behavior.FAILURE,
    Behavior.ODD_STATUS,
    Behavior.LOST,
    Behavior.LOST_AND_OVER,
    Behavior.RESET,
    Behavior.NO_JOB_ID,
}
KINDS: Final = {
    Behavior.LOST: Kind.UNKNOWN,
    Behavior.LOST_AND_OVER: Kind.UNKNOWN,
    Behavior.RESET: Kind.UNREACHABLE,
    Behavior.FAILED_BEFORE: Kind.UNKNOWN,
    Behavior.UNREACHABLE: Kind.UNREACHABLE,
    Behavior.THROTTLED: Kind.THROTTLED,
    Behavior.CROWDED: Kind.THROTTLED,
    Behavior.CREDENTIALS: Kind.CREDENTIALS,
    Behavior.CLOCK: Kind.CLOCK,
    Behavior.NOT_FOUND: Kind.NOT_FOUND,
    Behavior.BAD_REQUEST: Kind.BAD_REQUEST,
    Behavior.CONFLICT: Kind.CONFLICT,
}
DEFINITE: Final = {
    Kind.THROTTLED,
    Kind.CREDENTIALS,
    Kind.CLOCK,
    Kind.NOT_FOUND,
    Kind.BAD_REQUEST,
    Kind.CONFLICT,
}
"""Answers to a start that prove that it had no effect."""


@dataclass(slots=True, kw_only=True)
class RemoteJob:
    """A job that really exists. `owner` is the import that started it, '' for another party's."""

    job_id: str
    target: str
    owner: str
    created_at: float
    listed_at: float
    status: str = "IN_PROGRESS"
    ended_at: float = math.inf

    @property
    def is_pending(self) -> bool:
        """Whether it has not ended."""
        return self.status not in OUTCOMES


@dataclass(slots=True)
class RemoteSide:
    """The remote API in memory. It may refuse and lose calls, but never lies about its jobs."""

    clock: Callable[[], float]
    facts: ApiFacts = ApiFacts()
    first_called: dict[str, float] = field(default_factory=dict)
    """Import → when its first start was made that may have taken effect."""
    jobs: list[RemoteJob] = field(default_factory=list)
    unreconciled: set[str] = field(default_factory=set)
    """Imports whose last start may have taken effect, by what is recorded of it."""
    started_without_list: set[str] = field(default_factory=set)
    """Imports that were started although the list before the start was refused."""
    unlisted_starts: set[str] = field(default_factory=set)
    """Imports with a start of unknown outcome, whose job a list did not show."""

    def start(self, target: str, owner: str, lag: float) -> RemoteJob:
        """Start a job."""
        now = self.clock()
        job = RemoteJob(
            job_id=f"job-{len(self.jobs)}",
            target=target,
            owner=owner,
            created_at=now,
            listed_at=now + lag,
        )
        self.jobs.append(job)
        return job

    def start_other_job(self, target: str, lag: float) -> None:
        """Start another party's job, if none is pending."""
        if not self._is_busy(target, ours=False):
            self.start(target, "", lag)

    def submit(self, target: str, owner: str, behavior: Behavior, lag: float) -> Answer:
        """Handle a call that starts a job."""
        assert owner not in self.unreconciled, f"{owner} is started again without reconciling"
        self.unreconciled.add(owner)
        self.first_called.setdefault(owner, self.clock())
        if behavior in EFFECTIVE and self._is_busy(target):
            behavior = Behavior.CONFLICT
        if behavior not in EFFECTIVE:
            return _refusal(behavior)
        job = self.start(target, owner, lag)
        assert len(self.owned_by(owner)) == 1, f"{owner} has two jobs"
        self.change(
            job,
            {
                Behavior.SUCCESS: "COMPLETED",
                Behavior.LOST_AND_OVER: "COMPLETED",
                Behavior.FAILURE: "FAILED",
                Behavior.ODD_STATUS: "SETTING_UP",
            }.get(behavior, job.status),
        )
        if behavior in KINDS:
            return _refusal(behavior)
        shown = self._shown(job, self.facts.word)
        return Answer(kind=Kind.OK, jobs=() if behavior is Behavior.NO_JOB_ID else (shown,))

    def change(self, job: RemoteJob, status: str) -> None:
        """Change a job's status."""
        job.status = status
        if not job.is_pending:
            job.ended_at = min(job.ended_at, self.clock())

    def poll(self, job_id: str, behavior: Behavior) -> Answer:
        """Handle a call for one job; it may be lost or refused."""
        if behavior in KINDS:
            return _refusal(behavior)
        jobs = [job for job in self.jobs if job.job_id == job_id]
        assert jobs, f"{job_id} was never returned by the API"
        if self.is_forgotten(jobs[0]):
            return _refusal(Behavior.NOT_FOUND)
        shown = self._shown(jobs[0], self.facts.word)
        return Answer(kind=Kind.OK, jobs=() if behavior is Behavior.NO_JOB_ID else (shown,))

    def list_jobs(self, target: str, behavior: Behavior, *, is_running: bool) -> Answer:
        """Handle a call for a target's jobs. "Not found" is possible only for a target without
        jobs."""
        jobs = [job for job in self.jobs if job.target == target]
        refuses = behavior in {Behavior.NOT_FOUND, Behavior.BAD_REQUEST, Behavior.CONFLICT}
        if behavior in KINDS and not (refuses and (jobs or is_running)):
            return _refusal(behavior)
        listed = [job for job in jobs if self._is_listed(job)]
        shown = [self._shown(job, self.facts.list_word) for job in listed]
        return Answer(kind=Kind.OK, jobs=tuple(shown))

    def owned_by(self, import_id: str) -> list[RemoteJob]:
        """Return the jobs that an import has started."""
        return [job for job in self.jobs if job.owner == import_id]

    def by_id(self, job_id: str) -> RemoteJob:
        """Return a job that exists."""
        return next(job for job in self.jobs if job.job_id == job_id)

    def note_recorded(self, claim: Claim, answer: Answer) -> None:
        """Record what a recorded answer proves: that a start had no effect, or which jobs exist."""
        refused = claim.call is Call.START and (
            answer.kind in DEFINITE or (answer.kind is Kind.OK and bool(answer.job.error))
        )
        listed = claim.call is Call.RECONCILE and answer.kind in {Kind.OK, Kind.NOT_FOUND}
        if claim.item.doubt == "before" and answer.kind in DEFINITE:
            self.started_without_list.add(claim.item.id)
        if listed and claim.item.id in self.unreconciled:
            self.unlisted_starts.add(claim.item.id)
        if refused or listed:
            self.unreconciled.discard(claim.item.id)

    def may_be_undecided(self, item: Import) -> str:
        """Return why an import may be undecided; '' if there is evidence of what happened."""
        if item.id in self.started_without_list:
            return "the jobs from before the start are not known"
        if self.facts.hides_finished:
            return "the list hides finished jobs"
        if self.facts.forgets:
            return "finished jobs are forgotten"
        if "import" not in self.facts.list_word.lower():
            return "the lane may not know yet that this is AWS's name for an import"
        since = self.first_called.get(item.id, math.inf)
        target = f"{item.lane}/{item.target}"
        rivals = [
            job
            for job in self.jobs
            if job.target == target
            and job.owner != item.id
            and job.ended_at >= since - NEAR_SECONDS
        ]
        return "other jobs were started there" if rivals else ""

    def _is_busy(self, target: str, *, ours: bool = True) -> bool:
        return any(
            job.is_pending and (job.owner or not ours or self.facts.others_block)
            for job in self.jobs
            if job.target == target
        )

    def _is_listed(self, job: RemoteJob) -> bool:
        is_hidden = self.facts.hides_finished and not job.is_pending
        return job.listed_at <= self.clock() and not is_hidden and not self.is_forgotten(job)

    def is_forgotten(self, job: RemoteJob) -> bool:
        """Return whether the API has forgotten a job."""
        return self.facts.forgets and self.clock() - job.ended_at > FORGET_SECONDS

    def _shown(self, job: RemoteJob, word: str) -> Job:
        age = self.clock() - job.created_at
        shown = Job(
            job_id=job.job_id,
            status=job.status,
            operation=word if job.owner else self.facts.other_word,
        )
        match self.facts.clock:
            case Clock.GOOD:
                return replace(shown, created_seconds_ago=age)
            case Clock.NO_ZONE:
                within = NO_ZONE_SECONDS
                return replace(shown, created_seconds_ago=age + 3600, created_within_seconds=within)
            case Clock.WRONG:
                return replace(shown, created_seconds_ago=age + 3600)
        return shown


def _refusal(behavior: Behavior) -> Answer:
    if behavior is Behavior.ERROR:
        return Answer(kind=Kind.OK, jobs=(Job(error="the backend is broken"),))
    return Answer(kind=KINDS[behavior], error=behavior, concurrent=behavior is Behavior.CROWDED)


def next_states(claim: Claim, answer: Answer | None, age: float, *, cancelled: bool) -> set[State]:
    """Return the states that an import may have once this answer is recorded.

    `answer` is None if no call was made; `age` is the time in seconds since the first start.
    """
    states = _before_cancelling(claim, answer, age)
    if cancelled and claim.item.state is State.STARTING:
        return {State.CANCELLED if s in {State.WAITING, State.RUNNING} else s for s in states}
    return states


def _before_cancelling(claim: Claim, answer: Answer | None, age: float) -> set[State]:
    if claim.item.is_terminal:
        return {claim.item.state}
    if answer is None:
        return {State.WAITING if claim.call is Call.START else claim.item.state}
    if claim.call is Call.START:
        return {_after_start(claim, answer)}
    if answer.kind in {Kind.THROTTLED, Kind.CREDENTIALS, Kind.CLOCK}:
        return {claim.item.state}
    deadline = claim.item.deadline_seconds or POLICY.deadline_seconds
    late = {State.TIMED_OUT} if age > deadline - 1 else set()
    soon = {claim.item.state} if age < deadline + 1 else set()
    if claim.call is Call.POLL:
        if answer.kind is Kind.OK and answer.job.status in OUTCOMES:
            surveys = claim.item.listed_jobs is not None and claim.facts.lists_finished is None
            return {OUTCOMES[answer.job.status]} | ({State.RUNNING} if surveys else set())
        goes_on = answer.kind in {Kind.NOT_FOUND, Kind.BAD_REQUEST}
        return late | soon | ({State.RUNNING} if goes_on else set())
    if answer.kind in {Kind.UNKNOWN, Kind.UNREACHABLE}:
        return late | soon
    if claim.item.doubts and answer.kind in {Kind.BAD_REQUEST, Kind.CONFLICT}:
        return late | soon
    if claim.item.state is State.RUNNING:
        found = [job.status for job in answer.jobs if job.job_id == claim.item.job_id]
        seen = found[0] if found else claim.item.status
        return {OUTCOMES[seen]} if seen in OUTCOMES else {State.RUNNING} | late
    return _after_list(claim, answer) | late


def _after_start(claim: Claim, answer: Answer) -> State:
    match answer.kind:
        case Kind.OK if answer.job.job_id:
            return OUTCOMES.get(answer.job.status, State.RUNNING)
        case Kind.OK if answer.job.error:
            return State.FAILED
        case Kind.THROTTLED | Kind.CREDENTIALS | Kind.CLOCK:
            return State.WAITING
        case Kind.NOT_FOUND:
            return State.REJECTED
        case Kind.CONFLICT if not claim.item.doubts:
            return State.WAITING
    return State.STARTING


def _after_list(claim: Claim, answer: Answer) -> set[State]:
    states = {State.WAITING, State.STARTING}
    if claim.item.doubt == "before":
        return {State.WAITING}
    if claim.item.doubts:
        states |= {OUTCOMES.get(job.status, State.RUNNING) for job in answer.jobs}
    if claim.item.doubt == "refused":
        states.add(State.REJECTED)
    if claim.item.attempts >= POLICY.max_attempts:
        states.add(State.FAILED)
    return states


class Register:
    """The requests received under each id and key, and the verdict that each must have."""

    def __init__(self) -> None:
        self._bodies: dict[str, Any] = {}
        self._keys: dict[str, str] = {}

    def receive(self, import_id: str, body: Any, key: str = "") -> tuple[Verdict, str]:
        """Return the verdict on a valid request, and the id of the import that it becomes."""
        if import_id in self._bodies:
            is_same = self._bodies[import_id] == body
            return (Verdict.KNOWN if is_same else Verdict.REUSED), import_id
        earlier = self._keys.get(key)
        if earlier and self._bodies[earlier] == body:
            return Verdict.KNOWN, earlier
        self._bodies[import_id] = body
        if earlier:
            return Verdict.REJECTED, import_id
        if key:
            self._keys[key] = import_id
        return Verdict.ACCEPTED, import_id

    def ids(self) -> list[str]:
        """Return every id that stands for a request."""
        return list(self._bodies)

    def body_of(self, import_id: str) -> Any:
        """Return the request that was received under an id."""
        return self._bodies[import_id]


def false_claims(remote: RemoteSide, end: dict[str, Any]) -> Iterable[str]:
    """Return the false claims of a terminal event; `end` is its data."""
    import_id, outcome = end["importId"], end["outcome"]
    own = remote.owned_by(import_id)
    if end["jobId"]:
        job = remote.by_id(end["jobId"])
        if job.owner not in {"", import_id}:
            yield f"{import_id} names {job.job_id}, which {job.owner} has started"
        if not job.owner and remote.facts.other_word != remote.facts.list_word:
            yield f"{import_id} names {job.job_id}, which is no import"
        if outcome in {"succeeded", "failed"} and OUTCOMES.get(job.status) != outcome:
            yield f"{import_id} {outcome}, but {job.job_id} is {job.status}"
    elif outcome == "succeeded":
        yield f"{import_id} succeeded without a job"
    elif own and outcome in {"failed", "rejected"}:
        yield f"{import_id} {outcome} without a job, but it has started {own[0].job_id}"
