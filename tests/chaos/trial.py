"""The result of a trial of `make chaos`, and the promises that every trial checks.

The sandbox's ledger is the reference: it lists the jobs that really exist.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support import Producer, Sandbox
from tests.support.contract import problems_of_event
from worker.audit.auditor import audit
from worker.store.connection import connect

TERMINAL: Final = {
    "import.succeeded": "COMPLETED",
    "import.failed": "FAILED",
    "import.rejected": None,
    "import.timed_out": None,
    "import.cancelled": None,
}
"""Terminal event → the status that the job must have, if the event claims one."""

LEASE_SECONDS: Final = 10
"""The longest lease of any trial."""

RETENTION_SECONDS: Final = 7 * 86400


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: the injected faults, the number of imports, and the violations."""

    name: str
    faults: str
    imports: int
    seconds: float
    violations: list[str] = field(default_factory=list)


ONE_EACH: Final[Mapping[str, int]] = {}


def violations_of(
    producer: Producer,
    sandbox: Sandbox,
    import_ids: Collection[str],
    jobs_of: Mapping[str, int] = ONE_EACH,
) -> list[str]:
    """Return what was lost, done twice or reported wrongly; every import must have ended.

    `jobs_of` gives the number of jobs that a target may have, if that is not one.
    """
    return [
        *event_violations(producer.events(*TERMINAL), sandbox.jobs(), import_ids, jobs_of),
        *(problem for event in producer.events() for problem in problems_of_event(event)),
    ]


def event_violations(
    events: list[dict[str, Any]],
    jobs: list[dict[str, Any]],
    import_ids: Collection[str],
    jobs_of: Mapping[str, int] = ONE_EACH,
) -> list[str]:
    """Return the same violations for given terminal events and jobs."""
    return [
        *_lost_or_doubled(events, import_ids),
        *_false_events(events, jobs),
        *_duplicate_jobs(jobs, jobs_of),
    ]


def _lost_or_doubled(events: list[dict[str, Any]], import_ids: Collection[str]) -> Iterator[str]:
    ended = Counter(event["data"]["importId"] for event in events)
    for import_id in import_ids:
        if ended[import_id] != 1:
            yield f"import {import_id} has {ended[import_id]} terminal events"
    for import_id in ended.keys() - set(import_ids):
        yield f"import {import_id} ended, but was never requested"


def _false_events(events: list[dict[str, Any]], jobs: list[dict[str, Any]]) -> Iterator[str]:
    statuses = {job["jobId"]: job["status"] for job in jobs}
    for event in events:
        claimed, job_id = TERMINAL[event["type"]], event["data"]["jobId"]
        if job_id and job_id not in statuses:
            yield f"import {event['data']['importId']} names job {job_id}, which does not exist"
        elif claimed and job_id and statuses[job_id] != claimed:
            what = f"{event['type']}, but its job is {statuses[job_id]}"
            yield f"import {event['data']['importId']} was reported as {what}"


def _duplicate_jobs(jobs: list[dict[str, Any]], jobs_of: Mapping[str, int]) -> Iterator[str]:
    for target, count in Counter(job["target"] for job in jobs).items():
        if count > jobs_of.get(target, 1):
            yield f"target {target} has {count} jobs"


def broken_promises(producer: Producer) -> list[str]:
    """Return what `amplify-import audit` finds wrong in the store."""
    return asyncio.run(_audited(producer.store_url))


async def _audited(url: str) -> list[str]:
    async with connect(url) as redis:
        report = await audit(
            redis, lease_seconds=LEASE_SECONDS, retention_seconds=RETENTION_SECONDS, pause_seconds=1
        )
    return [f"{found.promise}: {found.subject}: {found.sentence}" for found in report.violations]
