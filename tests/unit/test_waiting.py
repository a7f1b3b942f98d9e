"""What an import is reported to wait for."""

from dataclasses import replace
from typing import Any

import pytest

from worker.cli.waiting import what_it_waits_for
from worker.domain.facts import LaneFacts, Times
from worker.domain.imports import Import
from worker.domain.polling import EDGES, Durations
from worker.domain.states import State
from worker.store.laneview import LaneView
from worker.store.views import Whereabouts

ITEM = Import(
    id="i1",
    state=State.WAITING,
    app_id="d1",
    backend_environment_name="staging",
    account="default",
    region="us-east-1",
    batch_id="b",
)
LANE = LaneView(
    name="default/us-east-1",
    waiting=3,
    running=2,
    paused_reason="",
    paused_seconds=0.0,
    fields={},
    facts=LaneFacts(times=Times.GOOD),
    read_at_ms=1000.0,
)
AUTH = "ImportBackendAuth"
MINUTE = Durations(tuple(20.0 * (53 < begin < 64) for begin in EDGES))
FEW = Durations(tuple(9.0 * (53 < begin < 64) for begin in EDGES))
RESOLVE = "amplify-import resolve i1"
TURN = "its turn in lane default/us-east-1"
WHERE = Whereabouts(lane=LANE, ahead=0, due_seconds=None, holder="", claimed=False)


@pytest.mark.parametrize(
    ("item", "where", "words"),
    [
        ({}, {"claimed": True}, "the answer to a call in progress"),
        (
            {},
            {"held": True},
            "its batch b, which is paused or waits for its canaries; see amplify-import batches",
        ),
        ({}, {"holder": "i0"}, "import i0, which is under way for the same target"),
        ({}, {"holder": "i1"}, f"{TURN}: it is next"),
        (
            {"undecided": "it may run"},
            {},
            f"an operator to decide: it may run; {RESOLVE} --adopt JOB | --start-again | --fail",
        ),
        (
            {"undecided": "it is gone", "job_id": "j1"},
            {},
            f"an operator to decide: it is gone; {RESOLVE} --adopt JOB | --succeed | --fail",
        ),
        (
            {"doubt": "unknown", "doubt_error": "504"},
            {"due_seconds": 8},
            "a check with AWS in 8 s, as the outcome of a call is unknown: 504",
        ),
        (
            {"suspicion": "no change"},
            {},
            "the job to end, though it may have ended already: no change",
        ),
        ({"state": State.RUNNING}, {"due_seconds": 0}, "the job to end; next poll now"),
        (
            {"state": State.RUNNING},
            {"due_seconds": 12, "lane": replace(LANE, facts=LaneFacts(durations={AUTH: MINUTE}))},
            "the job to end; next poll in 12 s; most jobs here end after 55 s to 63 s",
        ),
        (
            {"state": State.RUNNING},
            {"due_seconds": 12, "lane": replace(LANE, facts=LaneFacts(durations={AUTH: FEW}))},
            "the job to end; next poll in 12 s",
        ),
        ({"error": "throttled"}, {"due_seconds": 4}, "its next start in 4 s: throttled"),
        ({}, {"due_seconds": 4}, "its next start in 4 s"),
        (
            {},
            {"ahead": 1200},
            f"{TURN}: 1,200 ahead of it in its priority",
        ),
    ],
)
def test_an_import_waits_for_what_comes_next(
    item: dict[str, Any], where: dict[str, Any], words: str
) -> None:
    assert what_it_waits_for(replace(ITEM, **item), replace(WHERE, **where)) == words


@pytest.mark.parametrize(
    ("lane", "words"),
    [
        ({"fields": {"max_running": "5"}}, "; 2 of 5 are under way"),
        ({"fields": {"ceiling": "2"}}, "; AWS allows 2 unfinished jobs"),
        ({"facts": LaneFacts()}, "; the lane's first imports must show how AWS reports its jobs"),
        (
            {"limiters": {"start": {"blocked_until": "4000"}}},
            "; AWS throttles; starts resume in 3 s",
        ),
    ],
)
def test_the_reason_for_a_slow_lane_is_reported(lane: dict[str, Any], words: str) -> None:
    where = replace(WHERE, lane=replace(LANE, **lane))
    turn = f"{TURN}: it is next{words}"
    assert what_it_waits_for(ITEM, where) == turn


def test_a_paused_lane_is_reported_before_the_imports_own_reason() -> None:
    paused = replace(LANE, paused_reason="credentials", paused_seconds=60.0)
    told = what_it_waits_for(ITEM, replace(WHERE, lane=paused))
    assert told == (
        "its lane default/us-east-1, which is paused: credentials (next attempt in 60 s)"
    )
    by_operator = replace(paused, fields={"held": "1"})
    told = what_it_waits_for(ITEM, replace(WHERE, lane=by_operator))
    assert told == "its lane default/us-east-1, which an operator paused: credentials"
