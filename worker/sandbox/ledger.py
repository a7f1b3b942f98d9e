"""The ledger: what really happened, independent of the answers that clients received.

It keeps a limited number of calls: it drops the oldest, and counts the dropped ones. Jobs and
totals are complete.
"""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import Any

from worker.sandbox.api import Operation
from worker.sandbox.clock import Instant
from worker.sandbox.jobs import Job
from worker.sandbox.scenario import FaultKind


@dataclass(slots=True)
class Call:
    """A received call. `status` is None until the call is answered; it may never be.

    `time` is Unix time in seconds. `account` and `region` are '' if the call had no valid
    signature. `job_id` is set if the call started a job or named one.
    """

    seq: int
    time: float
    operation: Operation
    target: str
    account: str = ""
    region: str = ""
    status: int | None = None
    fault: FaultKind | None = None
    job_id: str | None = None

    @property
    def lane(self) -> str:
        """The account, region and class of the call: `max_concurrent` has one peak for each."""
        return f"{self.account}/{self.region}/{self.operation.operation_class}"

    def to_json(self) -> dict[str, Any]:
        """Return the call as the ledger endpoint shows it."""
        return {
            "seq": self.seq,
            "time": self.time,
            "account": self.account,
            "region": self.region,
            "operation": self.operation,
            "target": self.target,
            "status": self.status,
            "fault": self.fault,
            "jobId": self.job_id,
        }


class Ledger:
    """Records calls from their arrival to their end. `jobs` is the list that `Jobs` keeps."""

    def __init__(self, max_calls: int, jobs: list[Job]) -> None:
        self.calls: deque[Call] = deque(maxlen=max_calls)
        self.jobs = jobs
        self.received = 0
        # By operation and status code; "none" counts the calls that got no answer.
        self.totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.max_concurrent: dict[str, int] = {}
        self._concurrent: Counter[str] = Counter()

    def open(self, call: Call) -> None:
        """Record a call as it arrives."""
        self.received += 1
        self.calls.append(call)
        self._concurrent[call.lane] += 1
        peak = max(self._concurrent[call.lane], self.max_concurrent.get(call.lane, 0))
        self.max_concurrent[call.lane] = peak

    def close(self, call: Call) -> None:
        """Count a call when it has ended."""
        self._concurrent[call.lane] -= 1
        self.totals[call.operation][str(call.status or "none")] += 1

    def to_json(self, now: Instant, target: str | None = None) -> dict[str, Any]:
        """Return the calls and jobs of all targets, or of one target (`app/environment`).

        Totals, peaks and the number of dropped calls always cover all targets.
        """
        return {
            "calls": [c.to_json() for c in self.calls if target in {None, c.target}],
            "jobs": [_job(j, now) for j in self.jobs if target in {None, j.target.path}],
            "totals": self.totals,
            "max_concurrent": self.max_concurrent,
            "dropped_calls": self.received - len(self.calls),
        }


def _job(job: Job, now: Instant) -> dict[str, Any]:
    return {
        "jobId": job.job_id,
        "target": job.target.path,
        "account": job.target.account,
        "region": job.target.region,
        "operation": job.operation,
        "created": job.created.wall,
        "finished": job.finished(now),
        "status": job.status(now),
        "error": job.error(now),
        "request": job.request,
    }
