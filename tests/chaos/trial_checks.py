"""Check a trial at its end: every promise, against the ledger, the store and the broker."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from redis import Redis

from config.names import ADMIT_QUEUE, FINISH_QUEUE, IMPORTS_QUEUE
from tests.chaos.load import Load
from tests.chaos.operator_decisions import decide_as_operator
from tests.chaos.testbed import Testbed
from tests.chaos.trial import TERMINAL, Trial, broken_promises, violations_of
from tests.support import assert_nothing_left_behind
from worker.store.messages import PRIORITIES

MAX_WAIT_SECONDS: Final = 150
"""How long the last imports may take: one that failed as its lane's probe waits a minute."""

CELERY_QUEUES: Final = (IMPORTS_QUEUE, ADMIT_QUEUE, FINISH_QUEUE)

EXPECTED: Final = {
    "COMPLETED": "import.succeeded",
    "FAILED": "import.failed",
    "missing": "import.rejected",
}
"""The job's status, or `missing` if its app does not exist → the event that must be reported."""


def check_trial(name: str, testbed: Testbed, load: Load, started: float, imports: int) -> Trial:
    """Wait until everything has ended without further action, and return what violates a promise.

    `started` is the monotonic time at which the trial began. Workers must still run.
    """
    violations = [
        *wait_until_none(lambda: _not_sent(load)),
        *wait_until_none(lambda: [*decide_as_operator(testbed), *_not_over(testbed, load)]),
        *wait_until_none(lambda: _wrong_results(testbed, load)),
        *wait_until_none(lambda: left_in_queues(testbed.producer.redis)),
        *wait_until_none(lambda: _left_behind(testbed.producer.redis)),
        *violations_of(testbed.producer, testbed.sandbox, load.import_ids),
        *_false_outcomes(testbed),
        *_repeated_events(testbed, load),
        *testbed.defects(),
        *broken_promises(testbed.producer),
    ]
    testbed.keep_logs = bool(violations)
    return Trial(name, testbed.fault_summary(), imports, time.monotonic() - started, violations)


def wait_until_none(check: Callable[[], list[str]]) -> list[str]:
    """Repeat a check until it finds nothing or the time is over; return what it finds."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while (found := check()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _not_sent(load: Load) -> list[str]:
    return [] if load.is_sent else ["not all messages could be sent"]


def _not_over(testbed: Testbed, load: Load) -> list[str]:
    missing = len(load.import_ids) - testbed.outcomes.over()
    return [f"{missing} imports are not over"] if missing > 0 else []


def _wrong_results(testbed: Testbed, load: Load) -> list[str]:
    """Compare every task's result with the terminal event of the same import."""
    expected = dict.fromkeys(load.batch_tasks, "SUCCESS")
    for event in testbed.producer.events(*TERMINAL):
        is_success = event["type"] == "import.succeeded"
        expected[event["data"]["importId"]] = "SUCCESS" if is_success else "FAILURE"
    states = _states_of(testbed.producer.redis, list(expected))
    return [
        f"AsyncResult({task_id}) is {states[task_id]}, but must be {state}"
        for task_id, state in expected.items()
        if states[task_id] != state
    ]


def _states_of(redis: "Redis", task_ids: list[str]) -> dict[str, str]:
    """Return the states in the result backend. Celery's own client gives up during an outage."""
    stored: Any = redis.mget([f"celery-task-meta-{task_id}" for task_id in task_ids])
    states = [json.loads(text)["status"] if text else "PENDING" for text in stored]
    return dict(zip(task_ids, states, strict=True))


def left_in_queues(redis: "Redis") -> list[str]:
    """Return what the broker and the stream still hold after everything is over."""
    lists = [f"{q}{priority}" for q in CELERY_QUEUES for priority in PRIORITIES]
    # One transaction, since a message may be moving between keys.
    with redis.pipeline(transaction=True) as pipeline:
        for name in lists:
            pipeline.llen(name)
        pipeline.hlen("unacked")
        pipeline.zcard("unacked_index")
        pipeline.xlen("imports:requests")
        lengths = pipeline.execute()
    names = (*lists, "unacked", "unacked_index", "imports:requests")
    return [
        f"{name} still holds {length}"
        for name, length in zip(names, lengths, strict=True)
        if length
    ]


def _left_behind(redis: "Redis") -> list[str]:
    try:
        assert_nothing_left_behind(redis)
    except AssertionError as error:
        return [f"left behind: {error}".splitlines()[0]]
    return []


def _false_outcomes(testbed: Testbed) -> Iterator[str]:
    """Yield imports whose outcome differs from their job's; each target has one import."""
    statuses = {job["target"]: job["status"] for job in testbed.sandbox.jobs()}
    for event in testbed.producer.events(*TERMINAL):
        is_missing = event["subject"].startswith("d0missing")
        truth = statuses.get(event["subject"], "missing" if is_missing else "never started")
        if EXPECTED.get(truth) != event["type"]:
            error = event["data"]["error"]
            import_id = event["data"]["importId"]
            yield f"{import_id} was reported as {event['type']} ({error}), but is {truth}"


def _repeated_events(testbed: Testbed, load: Load) -> Iterator[str]:
    events = testbed.producer.events()
    for event_id, count in Counter(event["id"] for event in events).items():
        if count > 1 and not event_id.startswith("lane"):
            yield f"event {event_id} was appended {count} times"
    accepted = Counter(e["data"]["importId"] for e in events if e["type"] == "import.accepted")
    yield from _not_once("import.accepted", accepted, load.import_ids)
    batches = Counter(e["data"]["batchId"] for e in events if e["type"] == "batch.completed")
    yield from _not_once("batch.completed", batches, load.batches)


def _not_once(type_: str, counts: Counter[str], names: list[str]) -> Iterator[str]:
    for name in names:
        if counts[name] != 1:
            yield f"{name} has {counts[name]} events {type_}"
