"""Check a situation: what is unfinished, and which promises are broken at the end."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tests.chaos.situations import Run
from tests.chaos.trial import TERMINAL, broken_promises, violations_of
from tests.support import Producer, assert_nothing_left_behind

ERRORS: Final = {
    "failed": "ImportFailed",
    "rejected": "ImportRejected",
    "timed_out": "ImportTimedOut",
    "cancelled": "ImportCancelled",
}
QUEUES: Final = (
    "imports",
    "imports.admit",
    "imports.finish",
    "imports.junk",
    "unacked",
    "unacked_index",
)
ONCE: Final = ("import.accepted", "import.started", "import.stuck")


def left_to_do(run: Run) -> list[str]:
    """Return what has not ended, has not finished, or has not been cleaned up."""
    return [
        *_not_over(run),
        *_unfinished(run),
        *_left_behind(run.producer.redis),
    ]


def _not_over(run: Run) -> Iterator[str]:
    ended = {event["data"]["importId"] for event in run.producer.events(*TERMINAL)}
    for import_id in run.outcomes.keys() - ended:
        yield f"import {import_id} is {run.state_of(import_id) or 'unknown'}, and has not ended"


def _unfinished(run: Run) -> Iterator[str]:
    for task_id in run.results:
        result = run.producer.app.AsyncResult(task_id)
        if not result.ready():
            yield f"task {task_id} is {result.state}, and has not finished"


def _left_behind(redis: Any) -> Iterator[str]:
    if filled := redis.exists(*QUEUES):  # one command, since a message may be moving between keys
        yield f"{filled} of {', '.join(QUEUES)} are not empty"
    if waiting := redis.xlen("imports:requests"):
        yield f"{waiting} entries are on the stream"
    groups = redis.xinfo_groups("imports:requests") if redis.exists("imports:requests") else []
    if pending := sum(group["pending"] for group in groups):
        yield f"{pending} entries of the stream are pending"
    try:
        assert_nothing_left_behind(redis)
    except AssertionError as error:
        yield str(error)


def violations_on(run: Run) -> list[str]:
    """Return every broken promise."""
    return [
        *violations_of(run.producer, run.sandbox, run.outcomes, run.jobs_of),
        *_false_outcomes(run),
        *_false_results(run),
        *_duplicate_events(run.producer),
        *_missing_jobs(run),
        *broken_promises(run.producer),
    ]


def _false_outcomes(run: Run) -> Iterator[str]:
    for data in (event["data"] for event in run.producer.events(*TERMINAL)):
        import_id, outcome = data["importId"], data["outcome"]
        expected = run.outcomes.get(import_id, outcome)
        if outcome != expected:
            yield f"import {import_id} is {outcome} ({data['error']}), not {expected}"


def _false_results(run: Run) -> Iterator[str]:
    for task_id, states in run.results.items():
        result = run.producer.app.AsyncResult(task_id)
        error = ERRORS.get(run.outcomes.get(task_id, ""), "")
        reported = type(result.result).__name__
        if result.state not in states:
            yield f"task {task_id} is {result.state}: {result.result}"
        elif result.state == "FAILURE" and reported != error:
            yield f"task {task_id} failed with {reported}, not {error}"


def _duplicate_events(producer: Producer) -> Iterator[str]:
    reported = Counter((e["type"], e["data"].get("importId")) for e in producer.events(*ONCE))
    for (kind, import_id), times in reported.items():
        if times > 1:
            yield f"{kind} of import {import_id} was reported {times} times"


def _missing_jobs(run: Run) -> Iterator[str]:
    """Yield jobs that imports share, and jobs that a target must have and lacks."""
    events = run.producer.events(*TERMINAL)
    shared = Counter(event["data"]["jobId"] for event in events if event["data"]["jobId"])
    for job_id, times in shared.items():
        if times > 1:
            yield f"job {job_id} is claimed by {times} imports"
    jobs = Counter(job["target"] for job in run.sandbox.jobs())
    for target, number in run.jobs_of.items():
        if jobs[target] < number:
            yield f"target {target} has {jobs[target]} jobs, not {number}"
