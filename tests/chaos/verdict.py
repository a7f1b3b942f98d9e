"""What is left to do in a situation, and which promises did not hold when nothing is."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tests.chaos.situations import Stage
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


def left_to_do(stage: Stage) -> list[str]:
    """Return what is not over yet, finished, or taken away."""
    return [
        *_unended(stage),
        *_unfinished(stage),
        *_left_behind(stage.producer.redis),
    ]


def _unended(stage: Stage) -> Iterator[str]:
    ended = {event["data"]["importId"] for event in stage.producer.events(*TERMINAL)}
    for import_id in stage.outcomes.keys() - ended:
        yield f"import {import_id} is {stage.state_of(import_id) or 'unknown'}, and not over"


def _unfinished(stage: Stage) -> Iterator[str]:
    for task_id in stage.results:
        result = stage.producer.app.AsyncResult(task_id)
        if not result.ready():
            yield f"task {task_id} is {result.state}, and not ready"


def _left_behind(redis: Any) -> Iterator[str]:
    if filled := redis.exists(*QUEUES):  # at once: a message may just move from one to another
        yield f"{filled} of {', '.join(QUEUES)} are not empty"
    if waiting := redis.xlen("imports:requests"):
        yield f"{waiting} entries are on the stream"
    groups = redis.xinfo_groups("imports:requests") if redis.exists("imports:requests") else []
    if pending := sum(group["pending"] for group in groups):
        yield f"{pending} entries of the stream are not done with"
    try:
        assert_nothing_left_behind(redis)
    except AssertionError as error:
        yield str(error)


def violations_on(stage: Stage) -> list[str]:
    """Return every promise that did not hold."""
    return [
        *violations_of(stage.producer, stage.sandbox, stage.outcomes, stage.jobs_of),
        *_false_outcomes(stage),
        *_false_results(stage),
        *_told_twice(stage.producer),
        *_missing_jobs(stage),
        *broken_promises(stage.producer),
    ]


def _false_outcomes(stage: Stage) -> Iterator[str]:
    for data in (event["data"] for event in stage.producer.events(*TERMINAL)):
        import_id, outcome = data["importId"], data["outcome"]
        expected = stage.outcomes.get(import_id, outcome)
        if outcome != expected:
            yield f"import {import_id} is {outcome} ({data['error']}), not {expected}"


def _false_results(stage: Stage) -> Iterator[str]:
    for task_id, states in stage.results.items():
        result = stage.producer.app.AsyncResult(task_id)
        error = ERRORS.get(stage.outcomes.get(task_id, ""), "")
        told = type(result.result).__name__
        if result.state not in states:
            yield f"task {task_id} is {result.state}: {result.result}"
        elif result.state == "FAILURE" and told != error:
            yield f"task {task_id} failed with {told}, not {error}"


def _told_twice(producer: Producer) -> Iterator[str]:
    told = Counter((e["type"], e["data"].get("importId")) for e in producer.events(*ONCE))
    for (kind, import_id), times in told.items():
        if times > 1:
            yield f"{kind} of import {import_id} was told {times} times"


def _missing_jobs(stage: Stage) -> Iterator[str]:
    """Each job is one import's: none is shared, and none that a target must have is missing."""
    events = stage.producer.events(*TERMINAL)
    shared = Counter(event["data"]["jobId"] for event in events if event["data"]["jobId"])
    for job_id, times in shared.items():
        if times > 1:
            yield f"job {job_id} is claimed by {times} imports"
    jobs = Counter(job["target"] for job in stage.sandbox.jobs())
    for target, number in stage.jobs_of.items():
        if jobs[target] < number:
            yield f"target {target} has {jobs[target]} jobs, not {number}"
