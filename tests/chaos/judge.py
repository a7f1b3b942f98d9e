"""Judges a trial at its end: every promise, held against the ledger, the store and the broker."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from redis import Redis

from config.names import ADMIT_QUEUE, FINISH_QUEUE, IMPORTS_QUEUE
from tests.chaos.load import Load
from tests.chaos.stage import Stage
from tests.chaos.trial import TERMINAL, Trial, broken_promises, violations_of
from tests.support import assert_nothing_left_behind
from worker.store.messages import PRIORITIES

PATIENCE_SECONDS: Final = 150
"""How long the last ones may take: an import that failed as a lane's probe stands back a minute."""

CELERY_QUEUES: Final = (IMPORTS_QUEUE, ADMIT_QUEUE, FINISH_QUEUE)

EXPECTED: Final = {
    "COMPLETED": "import.succeeded",
    "FAILED": "import.failed",
    "missing": "import.rejected",
}
"""What became of the job, or that its app is missing → what must be told."""


def judge(name: str, stage: Stage, load: Load, started: float, imports: int) -> Trial:
    """Wait until everything is over, as it must be by itself, and say what is not as promised.

    `started` is the monotonic clock at the trial's begin. Workers must still run.
    """
    violations = [
        *patiently(lambda: _not_sent(load)),
        *patiently(lambda: _not_over(stage, load)),
        *patiently(lambda: _wrong_results(stage, load)),
        *patiently(lambda: left_in_queues(stage.producer.redis)),
        *patiently(lambda: _left_behind(stage.producer.redis)),
        *violations_of(stage.producer, stage.sandbox, load.import_ids),
        *_false_outcomes(stage),
        *_repeated_events(stage, load),
        *stage.defects(),
        *broken_promises(stage.producer),
    ]
    stage.keep_logs = bool(violations)
    return Trial(name, stage.told_faults(), imports, time.monotonic() - started, violations)


def patiently(check: Callable[[], list[str]]) -> list[str]:
    """Return what a check finds once it finds nothing, or patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := check()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _not_sent(load: Load) -> list[str]:
    return [] if load.is_sent else ["not all messages could be sent"]


def _not_over(stage: Stage, load: Load) -> list[str]:
    missing = len(load.import_ids) - stage.outcomes.over()
    return [f"{missing} imports are not over"] if missing > 0 else []


def _wrong_results(stage: Stage, load: Load) -> list[str]:
    """Compare every task's result with the event that told the same import's end."""
    expected = dict.fromkeys(load.batch_tasks, "SUCCESS")
    for event in stage.producer.events(*TERMINAL):
        is_success = event["type"] == "import.succeeded"
        expected[event["data"]["importId"]] = "SUCCESS" if is_success else "FAILURE"
    states = _states_of(stage.producer.redis, list(expected))
    return [
        f"AsyncResult({task_id}) is {states[task_id]}, must be {state}"
        for task_id, state in expected.items()
        if states[task_id] != state
    ]


def _states_of(redis: "Redis", task_ids: list[str]) -> dict[str, str]:
    """Return what the result backend holds, read as it is written: a client of it gives up."""
    stored: Any = redis.mget([f"celery-task-meta-{task_id}" for task_id in task_ids])
    states = [json.loads(text)["status"] if text else "PENDING" for text in stored]
    return dict(zip(task_ids, states, strict=True))


def left_in_queues(redis: "Redis") -> list[str]:
    """Return what the broker and the stream still hold, though everything is over."""
    lists = [f"{q}{priority}" for q in CELERY_QUEUES for priority in PRIORITIES]
    # At once: a message may just move from one to another.
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


def _false_outcomes(stage: Stage) -> Iterator[str]:
    """Yield imports whose end is not that of their target's job; trials import a target once."""
    statuses = {job["target"]: job["status"] for job in stage.sandbox.jobs()}
    for event in stage.producer.events(*TERMINAL):
        is_missing = event["subject"].startswith("d0missing")
        truth = statuses.get(event["subject"], "missing" if is_missing else "never started")
        if EXPECTED.get(truth) != event["type"]:
            error = event["data"]["error"]
            yield f"{event['data']['importId']} was told as {event['type']} ({error}), is {truth}"


def _repeated_events(stage: Stage, load: Load) -> Iterator[str]:
    events = stage.producer.events()
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
