"""The simulated jobs, which take time and then succeed or fail.

No timers run. The caller passes the time in, and a job's status follows from its age.
"""

import heapq
import uuid
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from worker.sandbox.api import ApiError, Operation, Target, bad_request
from worker.sandbox.clock import Instant
from worker.sandbox.draws import digest, draw
from worker.sandbox.scenario import Outcome, Scenario
from worker.sandbox.targets import Targets


class JobStatus(StrEnum):
    """The statuses of a job; the last two are final."""

    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `number` counts the jobs of its target, from 1.

    `failure` is the error with which it will fail, None if it will succeed. `operation` has started
    it. `other_operation` is the operation name of a job that is not an import; otherwise ''.
    """

    number: int
    job_id: str
    target: Target
    request: dict[str, str]
    created: Instant
    duration_seconds: float
    failure: str | None
    operation: Operation = Operation.IMPORT_BACKEND_AUTH
    other_operation: str = ""

    def age(self, now: Instant) -> float:
        """Return the seconds since the job was created."""
        return now.elapsed - self.created.elapsed

    def status(self, now: Instant) -> JobStatus:
        """Return the job's status at this time."""
        if self.age(now) < self.duration_seconds:
            return JobStatus.IN_PROGRESS
        return JobStatus.FAILED if self.failure else JobStatus.COMPLETED

    def error(self, now: Instant) -> str | None:
        """Return why the job failed; None if it has not failed by this time."""
        return self.failure if self.status(now) is JobStatus.FAILED else None

    def finished(self, now: Instant) -> float | None:
        """Return when the job ended, in Unix seconds; None if it has not ended by this time."""
        if self.status(now) is JobStatus.IN_PROGRESS:
            return None
        return self.created.wall + self.duration_seconds


class Jobs:
    """All jobs, by target. They are kept as long as the simulation lasts.

    `all` has only the imports, in the order of their starts.
    """

    def __init__(self, scenario: Scenario, targets: Targets) -> None:
        self._scenario = scenario
        self._targets = targets
        self.all: list[Job] = []
        self._jobs: dict[Target, list[Job]] = {}
        # For each account and region, a heap of the times at which unfinished jobs end.
        self._ends: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def start(
        self, operation: Operation, target: Target, request: dict[str, str], now: Instant
    ) -> Job:
        """Start an import and return its job.

        Raises:
            ApiError: the answer 400, if the target is scripted to be rejected or has a pending job.

        """
        script = self._targets.script_of(target)
        if script and script.settings.outcome is Outcome.REJECT:
            raise bad_request(f"{_what(operation, request)} cannot be imported.")
        earlier = self.of(target, now)
        if pending := self._pending(earlier, now):
            message = self._scenario.undocumented.pending_message.format(
                target=target.path, job=pending.job_id
            )
            raise ApiError(400, self._scenario.pending_conflict_code, message)
        job = self._new(operation, target, request, now, number=len(earlier) + 1)
        earlier.append(job)
        self.all.append(job)
        heapq.heappush(
            self._ends[target.account, target.region], now.elapsed + job.duration_seconds
        )
        return job

    def of(self, target: Target, now: Instant) -> list[Job]:
        """Return a target's jobs, oldest first."""
        if target not in self._jobs:
            self._jobs[target] = self._others(target, now)
        return self._jobs[target]

    def running(self, account: str, region: str, now: Instant) -> int:
        """Return how many jobs of an account in a region are unfinished."""
        ends = self._ends[account, region]
        while ends and ends[0] <= now.elapsed:
            heapq.heappop(ends)
        return len(ends)

    def _pending(self, jobs: list[Job], now: Instant) -> Job | None:
        for job in reversed(jobs):
            blocks = not job.other_operation or self._scenario.undocumented.others_block
            if blocks and job.status(now) is JobStatus.IN_PROGRESS:
                return job
        return None

    def _others(self, target: Target, now: Instant) -> list[Job]:
        """Return the target's jobs that are not imports.

        One may have begun an hour before the target's first call, one may begin with that call.
        """
        facts, seed = self._scenario.undocumented, self._scenario.seed
        an_hour_ago = Instant(elapsed=now.elapsed - 3600, wall=now.wall - 3600)
        jobs: list[Job] = []
        for chance, created in ((facts.other_jobs, an_hour_ago), (facts.others_running, now)):
            number = len(jobs) + 1
            if draw(seed, "other job", target.path, created is now) < chance:
                name = digest(seed, "other job", target, created is now, now.wall)
                job_id = str(uuid.UUID(bytes=name, version=4))
                seconds, kind = facts.other_seconds, facts.other_operation
                job = Job(number, job_id, target, {}, created, seconds, None, other_operation=kind)
                jobs.append(job)
        return jobs

    def _new(
        self,
        operation: Operation,
        target: Target,
        request: dict[str, str],
        now: Instant,
        *,
        number: int,
    ) -> Job:
        duration_seconds, failure = self._fate(target, number)
        # The wall time makes the id unique across restarts: clients remember jobs of earlier runs.
        name = digest(self._scenario.seed, "job", target, number, now.wall)
        job_id = str(uuid.UUID(bytes=name, version=4))
        return Job(number, job_id, target, request, now, duration_seconds, failure, operation)

    def _fate(self, target: Target, number: int) -> tuple[float, str | None]:
        settings, seed = self._scenario.jobs, self._scenario.seed
        span = settings.max_seconds - settings.min_seconds
        seconds = settings.min_seconds + span * draw(seed, "duration", target.path, number)
        fails = draw(seed, "failure", target.path, number) < settings.failure_rate
        script = self._targets.script_of(target)
        if script:
            scripted = script.settings
            if scripted.duration_seconds is not None:
                seconds = scripted.duration_seconds
            if scripted.outcome is Outcome.NEVER:
                seconds = inf
            fails = scripted.outcome is Outcome.FAIL or (scripted.outcome is None and fails)
        if not fails:
            return seconds, None
        messages = settings.failure_messages
        choice = draw(seed, "message", target.path, number)
        return seconds, messages[int(choice * len(messages))]


def _what(operation: Operation, request: dict[str, str]) -> str:
    if operation is Operation.IMPORT_BACKEND_STORAGE:
        return f"The bucket {request.get('bucketName', '')}"
    return f"The user pool {request['userPoolId']}"
