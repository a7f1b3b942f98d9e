"""Workers that die or stand still at chosen boundaries; `crashes` has many more."""

import random
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from tests.chaos.crashes import (
    Crash,
    Rehearsal,
    Theatres,
    always_passed,
    crash,
    drawn_from,
    rehearse,
    theatres,
)
from tests.chaos.situations import SITUATIONS
from tests.chaos.trial import Trial
from worker.store.scripts import script_texts

BY_HAND = {
    "close_batch",
    "hold_lane",
    "reset_lane",
    "resolve",
    "resume_batch",
    "retry",
    "set_limits",
    "stop_batch",
    *(name for name in script_texts() if name.startswith("audit_")),
}
"""Scripts that only the command line calls."""

MOST_DANGEROUS = (
    "doors/after:aws.import_backend_auth#1",
    "doors/before:run.start#1",
    "doors/after:run.start#2",
    "doors/before:finish.poll.succeeded#1",
    "doors/after:finish.poll.succeeded#2",
    "doors/before:ack.imports#1",
    "left behind/after:take_messages=junk#1",
    "left behind/before:requests.done#1",
    "doors/before:aws.import_backend_auth#1 frozen",
    "doors/before:run.start#1 frozen",
    "doors/before:finish.poll.succeeded#1 frozen",
    "doors/after:aws.import_backend_auth#1 then before:run.start",
)
DRAWN = 4
SEED = 20


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Theatres]:
    with theatres(tmp_path, size=8) as stages:
        yield stages


def test_a_worker_that_dies_or_freezes_where_it_is_worst_loses_and_doubles_nothing(
    stages: Theatres,
) -> None:
    assert broken(stages.each(crash, map(Crash.of, MOST_DANGEROUS))) == {}


def test_every_script_that_workers_call_is_a_boundary_and_any_of_them_may_be_the_last(
    stages: Theatres,
) -> None:
    rehearsals: list[Rehearsal] = list(stages.each(rehearse, [*SITUATIONS, *SITUATIONS]))
    assert broken(rehearsal.trial for rehearsal in rehearsals) == {}
    passed = always_passed(rehearsals)
    boundaries = set(chain(*passed.values()))
    scripts = set(script_texts()) - BY_HAND
    assert scripts - {name_of(boundary) for boundary in boundaries} == set(), "none is left out"
    print("seed", SEED)
    every = drawn_from(passed, SEED) + drawn_from(passed, SEED, frozen=True)
    drawn = random.Random(SEED).sample(every, DRAWN)
    assert broken(stages.each(crash, drawn)) == {}


def broken(trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Return the trials in which a promise did not hold."""
    return {trial.name: trial.violations for trial in trials if trial.violations}


def name_of(boundary: str) -> str:
    """Return the script of a boundary, as `before:doubt.start.refused`."""
    return boundary.partition(":")[2].partition(".")[0].partition("=")[0]
