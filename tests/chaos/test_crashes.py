"""Workers that are killed or frozen at chosen boundaries; `crashes` covers many more."""

import random
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import pytest

from tests.chaos.crashes import (
    NOT_REACHED,
    Baseline,
    Crash,
    Slots,
    always_passed,
    crash,
    draw_crashes,
    open_slots,
    run_without_crash,
)
from tests.chaos.situations import SITUATIONS
from tests.chaos.trial import Trial
from worker.store.scripts import script_texts

OTHERS_SCRIPTS = {
    *("hold_sinks", "read_events", "release_sinks", "settle_events"),
    "close_batch",
    "pause_batch",
    "pause_lane",
    "reset_lane",
    "resolve",
    "resume_batch",
    "resume_lane",
    "retry",
    "schedule_batch",
    "set_limits",
    *(name for name in script_texts() if name.startswith("audit_")),
}
"""Scripts that only relays and the command line call."""

MOST_DANGEROUS = (
    "entry points/after:aws.import_backend_auth#1",
    "entry points/before:run.start#1",
    "entry points/after:run.start#2",
    "entry points/before:finish.poll.succeeded#1",
    "entry points/after:finish.poll.succeeded#2",
    "entry points/before:announce.complete#1",
    "entry points/after:announce.complete#1",
    "entry points/before:results.end#1",
    "entry points/before:note_tasks_done#1",
    "entry points/after:admit#1",
    "entry points/before:ack.imports#1",
    "left behind/after:take_messages=junk#1",
    "left behind/before:requests.done#1",
    "entry points/before:aws.import_backend_auth#1 frozen",
    "entry points/before:run.start#1 frozen",
    "entry points/before:finish.poll.succeeded#1 frozen",
    "entry points/after:aws.import_backend_auth#1 then before:run.start",
)
DRAWN = 4
SEED = 20


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[Slots]:
    with open_slots(tmp_path, size=8) as slots:
        yield slots


def test_a_worker_killed_or_frozen_at_the_riskiest_boundaries_loses_and_repeats_nothing(
    slots: Slots,
) -> None:
    assert broken(slots.each(crash, map(Crash.of, MOST_DANGEROUS))) == {}


def test_every_script_that_workers_call_is_a_boundary_at_which_a_crash_is_safe(
    slots: Slots,
) -> None:
    baselines: list[Baseline] = list(slots.each(run_without_crash, [*SITUATIONS, *SITUATIONS]))
    assert broken(baseline.trial for baseline in baselines) == {}
    passed = always_passed(baselines)
    boundaries = set(chain(*passed.values()))
    scripts = set(script_texts()) - OTHERS_SCRIPTS
    assert scripts - {name_of(boundary) for boundary in boundaries} == set(), "none is left out"
    print("seed", SEED)
    every = draw_crashes(passed, SEED) + draw_crashes(passed, SEED, frozen=True)
    drawn = iter(random.Random(SEED).sample(every, 2 * DRAWN))
    conclusive = 0
    while conclusive < DRAWN:
        trials = list(slots.each(crash, islice(drawn, DRAWN - conclusive)))
        assert trials, "too few of the drawn boundaries were reached"
        reached = [trial for trial in trials if trial.violations != [NOT_REACHED]]
        assert broken(reached) == {}
        conclusive += len(reached)


def broken(trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Return the trials in which a promise is broken."""
    return {trial.name: trial.violations for trial in trials if trial.violations}


def name_of(boundary: str) -> str:
    """Return the script of a boundary, such as `before:doubt.start.refused`."""
    return boundary.partition(":")[2].partition(".")[0].partition("=")[0]
