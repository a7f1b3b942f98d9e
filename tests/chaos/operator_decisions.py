"""Resolve undecided imports with the command, by what really happened, as an operator would."""

from collections.abc import Iterator
from typing import Any, Final

from tests.chaos.testbed import Testbed
from tests.support import CommandLine
from worker.domain.imports import Import
from worker.store.keys import IMPORT
from worker.store.records import import_of

DECISIONS: Final = "operator decisions"


def decide_as_operator(testbed: Testbed) -> list[str]:
    """Resolve every undecided import; return those that had no reason to be undecided.

    The only valid reason is another party's job that can't be distinguished from the import's own.
    """
    jobs: dict[str, list[str]] = {}
    for job in testbed.sandbox.jobs():
        jobs.setdefault(job["target"], []).append(job["jobId"])
    return [
        f"import {item.id} is undecided without reason: {item.undecided}"
        for item in list(_undecided(testbed))
        if not _decide(testbed, item, jobs.get(item.target, []))
    ]


def _undecided(testbed: Testbed) -> Iterator[Import]:
    for import_id in testbed.outcomes.undecided():
        fields: Any = testbed.producer.redis.hgetall(IMPORT.name + import_id)
        item = import_of(import_id, fields)
        if item.undecided:
            yield item


def _decide(testbed: Testbed, item: Import, own: list[str]) -> bool:
    if set(item.unclear_jobs) <= set(own):
        return False
    decision = ("--adopt", own[0]) if own else ("--start-again",)
    done = CommandLine(testbed.store.url)("resolve", item.id, *decision)
    testbed.faults[DECISIONS] += done.returncode == 0  # otherwise a worker has decided meanwhile
    return True
