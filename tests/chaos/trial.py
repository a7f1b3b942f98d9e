"""What every trial of `make chaos` hands in, and the promises that all of them are held against.

The sandbox's ledger is the truth: jobs that exist, whatever anybody was told.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support import Producer, Sandbox
from worker.store.audit import audit
from worker.store.connection import connect

TERMINAL: Final = {
    "import.succeeded": "COMPLETED",
    "import.failed": "FAILED",
    "import.rejected": None,
    "import.timed_out": None,
    "import.cancelled": None,
}
"""Terminal event → the status that the target's job must have, where the event claims one."""

LEASE_SECONDS: Final = 10
"""The longest lease of any trial."""

RETENTION_SECONDS: Final = 7 * 86400


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: what was done to how many imports, and which promises did not hold."""

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
    """Return what was lost, doubled or told falsely, one line each; every import must be over.

    `jobs_of` gives the jobs that a target may have, where that is not one.
    """
    events = producer.events(*TERMINAL)
    jobs = sandbox.jobs()
    return [
        *_lost_or_doubled(events, import_ids),
        *_untrue(events, jobs),
        *_done_twice(jobs, jobs_of),
    ]


def _lost_or_doubled(events: list[dict[str, Any]], import_ids: Collection[str]) -> Iterator[str]:
    ended = Counter(event["data"]["importId"] for event in events)
    for import_id in import_ids:
        if ended[import_id] != 1:
            yield f"import {import_id} has {ended[import_id]} terminal events"
    for import_id in ended.keys() - set(import_ids):
        yield f"import {import_id} ended, and nobody asked for it"


def _untrue(events: list[dict[str, Any]], jobs: list[dict[str, Any]]) -> Iterator[str]:
    statuses = {job["jobId"]: job["status"] for job in jobs}
    for event in events:
        claimed, job_id = TERMINAL[event["type"]], event["data"]["jobId"]
        if job_id and job_id not in statuses:
            yield f"import {event['data']['importId']} names job {job_id}, which does not exist"
        elif claimed and job_id and statuses[job_id] != claimed:
            what = f"{event['type']}, but its job is {statuses[job_id]}"
            yield f"import {event['data']['importId']} was told as {what}"


def _done_twice(jobs: list[dict[str, Any]], jobs_of: Mapping[str, int]) -> Iterator[str]:
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
