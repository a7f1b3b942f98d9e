"""The simulated backend: jobs that take time and succeed or fail.

Pure: the time is passed in, a job's state is computed from its age, and no timers run.
"""

import heapq
import uuid
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from worker.sandbox.api import ApiError, Target, bad_request
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
    """One job; `failure` is what it will fail with, `number` its place on the target.

    `other_operation` names what one does that is no import, and is '' otherwise.
    """

    number: int
    job_id: str
    target: Target
    request: dict[str, str]
    created: Instant
    duration_seconds: float
    failure: str | None
    other_operation: str = ""

    def age(self, now: Instant) -> float:
        """Seconds since it was created."""
        return now.elapsed - self.created.elapsed

    def status(self, now: Instant) -> JobStatus:
        """Say how far it is."""
        if self.age(now) < self.duration_seconds:
            return JobStatus.IN_PROGRESS
        return JobStatus.FAILED if self.failure else JobStatus.COMPLETED

    def error(self, now: Instant) -> str | None:
        """Say why it failed, once it has."""
        return self.failure if self.status(now) is JobStatus.FAILED else None

    def finished(self, now: Instant) -> float | None:
        """Seconds since the epoch at which it ended, once it has."""
        if self.status(now) is JobStatus.IN_PROGRESS:
            return None
        return self.created.wall + self.duration_seconds


class Jobs:
    """All jobs, in order and by target; kept for as long as the simulation lasts.

    `all` holds the imports alone.
    """

    def __init__(self, scenario: Scenario, targets: Targets) -> None:
        self._scenario = scenario
        self._targets = targets
        self.all: list[Job] = []
        self._jobs: dict[Target, list[Job]] = {}
        # Per account and region the ends of the jobs under way, soonest first.
        self._ends: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def start(self, target: Target, request: dict[str, str], now: Instant) -> Job:
        """Start an import; raises the 400 of a rejected target or of one with a pending job."""
        script = self._targets.script_of(target)
        if script and script.settings.outcome is Outcome.REJECT:
            raise bad_request(f"The user pool {request['userPoolId']} cannot be imported.")
        earlier = self.of(target, now)
        if pending := self._pending(earlier, now):
            message = self._scenario.undocumented.pending_message.format(
                target=target.path, job=pending.job_id
            )
            raise ApiError(400, self._scenario.pending_conflict_code, message)
        job = self._new(target, request, now, number=len(earlier) + 1)
        earlier.append(job)
        self.all.append(job)
        heapq.heappush(
            self._ends[target.account, target.region], now.elapsed + job.duration_seconds
        )
        return job

    def of(self, target: Target, now: Instant) -> list[Job]:
        """List a target's jobs, oldest first."""
        if target not in self._jobs:
            self._jobs[target] = self._others(target, now)
        return self._jobs[target]

    def running(self, account: str, region: str, now: Instant) -> int:
        """Count the unfinished jobs of an account in a region."""
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
        """Return the target's jobs of another kind: from before, and since its first call."""
        facts, seed = self._scenario.undocumented, self._scenario.seed
        an_hour_ago = Instant(elapsed=now.elapsed - 3600, wall=now.wall - 3600)
        jobs: list[Job] = []
        for chance, created in ((facts.other_jobs, an_hour_ago), (facts.others_running, now)):
            number = len(jobs) + 1
            if draw(seed, "other job", target.path, created is now) < chance:
                name = digest(seed, "other job", target, created is now, now.wall)
                job_id = str(uuid.UUID(bytes=name, version=4))
                seconds, kind = facts.other_seconds, facts.other_operation
                jobs.append(Job(number, job_id, target, {}, created, seconds, None, kind))
        return jobs

    def _new(self, target: Target, request: dict[str, str], now: Instant, *, number: int) -> Job:
        duration_seconds, failure = self._fate(target, number)
        # The wall time makes it unique over restarts: clients remember jobs for longer than we do.
        name = digest(self._scenario.seed, "job", target, number, now.wall)
        job_id = str(uuid.UUID(bytes=name, version=4))
        return Job(number, job_id, target, request, now, duration_seconds, failure)

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
