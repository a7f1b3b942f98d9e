"""The operations on the simulated jobs, without faults (`simulation` adds these)."""

from dataclasses import dataclass
from typing import Any

from worker.sandbox.answers import (
    Body,
    auth_answer,
    import_answer,
    job_answer,
    listed_answer,
    listed_operation,
    status_word,
    storage_answer,
    storage_import_answer,
)
from worker.sandbox.api import Operation, Target, not_found
from worker.sandbox.clock import Instant
from worker.sandbox.draws import digest
from worker.sandbox.jobs import Job, Jobs, JobStatus
from worker.sandbox.paging import DEFAULT_PAGE_SIZE, Position, page
from worker.sandbox.undocumented import FilterMatch, ListOrder, Undocumented


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request, and how eventual consistency affects its answer.

    The answer does not show jobs that are younger than `hidden_seconds`. A list begins with
    `empty_pages` empty pages.
    """

    operation: Operation
    target: Target
    body: dict[str, Any]
    job_id: str | None = None
    hidden_seconds: float = 0
    empty_pages: int = 0


class Backend:
    """Executes requests about existing targets."""

    def __init__(self, jobs: Jobs, facts: Undocumented) -> None:
        self._jobs = jobs
        self._facts = facts

    def execute(self, request: Request, now: Instant) -> Body:
        """Execute a request and return the body of the answer.

        Raises:
            ApiError: for an answer with a status other than 200.

        """
        match request.operation:
            case Operation.IMPORT_BACKEND_AUTH:
                return import_answer(self._start(request, now), now, self._facts)
            case Operation.IMPORT_BACKEND_STORAGE:
                return storage_import_answer(self._start(request, now), now, self._facts)
            case Operation.GET_BACKEND_JOB:
                return self._get_job(request, now)
            case Operation.LIST_BACKEND_JOBS:
                return self._list_jobs(request, now)
            case Operation.GET_BACKEND_AUTH:
                imported, latest = self._imported(Operation.IMPORT_BACKEND_AUTH, request, now)
                return auth_answer(imported, latest, request.body["resourceName"], now)
            case Operation.GET_BACKEND_STORAGE:
                imported, _ = self._imported(Operation.IMPORT_BACKEND_STORAGE, request, now)
                return storage_answer(imported, request.body["resourceName"])

    def _start(self, request: Request, now: Instant) -> Job:
        return self._jobs.start(request.operation, request.target, request.body, now)

    def _visible(self, request: Request, now: Instant) -> list[Job]:
        jobs = self._jobs.of(request.target, now)
        return [job for job in jobs if job.age(now) >= request.hidden_seconds]

    def _is_listed(self, job: Job, now: Instant) -> bool:
        return _is_remembered(job, now, self._facts.list_memory_seconds) and (
            self._facts.lists_finished or job.status(now) is JobStatus.IN_PROGRESS
        )

    def _get_job(self, request: Request, now: Instant) -> Body:
        for job in self._visible(request, now):
            is_kept = _is_remembered(job, now, self._facts.job_memory_seconds)
            if job.job_id == request.job_id and is_kept:
                return job_answer(job, now, self._facts)
        raise not_found("Job", str(request.job_id))

    def _list_jobs(self, request: Request, now: Instant) -> Body:
        position = Position(empty_pages=request.empty_pages)
        if "nextToken" in request.body:
            position = Position.from_token(request.body["nextToken"])
        matching = [
            job
            for job in self._visible(request, now)
            if self._is_listed(job, now) and self._matches(job, request.body, now)
        ]
        size = request.body.get("maxResults", DEFAULT_PAGE_SIZE)
        jobs, following = page(matching, position, size, self._rank)
        body: Body = {"jobs": [listed_answer(job, now, self._facts) for job in jobs]}
        return body | {"nextToken": following.token} if following else body

    def _imported(self, by: Operation, request: Request, now: Instant) -> tuple[Job, Job]:
        """Return an operation's last job that succeeded, and its last job of all.

        Raises:
            ApiError: the answer 404, if none has succeeded.

        """
        jobs = [
            job
            for job in self._jobs.of(request.target, now)
            if job.operation is by and not job.other_operation
        ]
        for job in reversed(jobs):
            if job.status(now) is JobStatus.COMPLETED:
                return job, jobs[-1]
        raise not_found(by.removeprefix("Import"), request.target.path)

    def _matches(self, job: Job, filters: dict[str, Any], now: Instant) -> bool:
        if "operation" in filters and self._facts.operation_filter is FilterMatch.NOTHING:
            return False
        shown = {"jobId": job.job_id, "status": status_word(job, now, self._facts)}
        if self._facts.operation_filter is FilterMatch.NAME:
            shown["operation"] = listed_operation(job, self._facts)
        return all(filters.get(name, value) == value for name, value in shown.items())

    def _rank(self, job: Job) -> int:
        match self._facts.list_order:
            case ListOrder.OLDEST:
                return job.number
            case ListOrder.SHUFFLED:
                return int.from_bytes(digest(0, "rank", job.job_id)[:6])
        return -job.number


def _is_remembered(job: Job, now: Instant, seconds: float | None) -> bool:
    return seconds is None or job.age(now) <= job.duration_seconds + seconds
