"""The four operations on the simulated jobs, as they work when nothing goes wrong in between."""

from dataclasses import dataclass
from typing import Any

from worker.sandbox.answers import Body, auth_answer, import_answer, job_answer
from worker.sandbox.api import Operation, Target, not_found
from worker.sandbox.clock import Instant
from worker.sandbox.jobs import OPERATION_NAME, Job, Jobs, JobStatus
from worker.sandbox.paging import DEFAULT_PAGE_SIZE, Position, page


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request, and how the API's eventual consistency shows in its answer.

    Jobs younger than `hidden_seconds` are not seen; a first page comes after `empty_pages` others.
    """

    operation: Operation
    target: Target
    body: dict[str, Any]
    job_id: str | None = None
    hidden_seconds: float = 0
    empty_pages: int = 0


class Backend:
    """Answers requests about targets that exist."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def execute(self, request: Request, now: Instant) -> Body:
        """Do what is asked; raises ApiError for any answer but 200."""
        match request.operation:
            case Operation.IMPORT_BACKEND_AUTH:
                return import_answer(self._jobs.start(request.target, request.body, now), now)
            case Operation.GET_BACKEND_JOB:
                return self._get_job(request, now)
            case Operation.LIST_BACKEND_JOBS:
                return self._list_jobs(request, now)
            case Operation.GET_BACKEND_AUTH:
                return self._get_auth(request, now)

    def _visible(self, request: Request, now: Instant) -> list[Job]:
        jobs = self._jobs.of(request.target)
        return [job for job in jobs if job.age(now) >= request.hidden_seconds]

    def _get_job(self, request: Request, now: Instant) -> Body:
        for job in self._visible(request, now):
            if job.job_id == request.job_id:
                return job_answer(job, now)
        raise not_found("Job", str(request.job_id))

    def _list_jobs(self, request: Request, now: Instant) -> Body:
        position = Position(empty_pages=request.empty_pages)
        if "nextToken" in request.body:
            position = Position.from_token(request.body["nextToken"])
        matching = [j for j in self._visible(request, now) if _matches(j, request.body, now)]
        size = request.body.get("maxResults", DEFAULT_PAGE_SIZE)
        jobs, following = page(matching, position, size)
        body: Body = {"jobs": [job_answer(job, now) for job in jobs]}
        return body | {"nextToken": following.token} if following else body

    def _get_auth(self, request: Request, now: Instant) -> Body:
        jobs = self._jobs.of(request.target)
        for job in reversed(jobs):
            if job.status(now) is JobStatus.COMPLETED:
                return auth_answer(job, jobs[-1], request.body["resourceName"], now)
        raise not_found("BackendAuth", request.target.path)


def _matches(job: Job, filters: dict[str, Any], now: Instant) -> bool:
    shown = {"jobId": job.job_id, "operation": OPERATION_NAME, "status": job.status(now)}
    return all(filters.get(name, value) == value for name, value in shown.items())
