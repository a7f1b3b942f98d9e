"""The display of a batch: redrawn on a terminal, lines elsewhere, and during outages."""

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rich.console import Console

from worker.cli.progress import Pace, follow_batch
from worker.cli.summary import exit_code_of, summary
from worker.domain.imports import Import
from worker.domain.states import State
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView
from worker.store.views import ImportViews


def counts_of(expected: int, **by_state: int) -> BatchCounts:
    return BatchCounts(
        batch_id="b",
        accepted=sum(by_state.values()),
        expected=expected,
        by_state={state: by_state.get(state, 0) for state in State},
    )


def lane(reason: str = "", blocked_seconds: float = 0) -> LaneView:
    return LaneView(
        name="default/us-east-1",
        waiting=1,
        running=1,
        paused_reason=reason,
        paused_seconds=0,
        fields={},
        limiters={"start": {"blocked_until": str(blocked_seconds * 1000)}},
    )


class Script(ImportViews):
    """Returns one state after the other; an exception stands for an outage."""

    def __init__(
        self,
        *moments: BatchCounts | Exception | None,
        lanes: Any = (),
        undecided: Sequence[Import] = (),
    ) -> None:
        self._moments = list(moments)
        self._busy = list(lanes)
        self._undecided = list(undecided)

    async def batch(self, batch_id: str) -> BatchCounts | None:  # noqa: ARG002 - always the same batch
        moment = self._moments.pop(0)
        if isinstance(moment, Exception):
            raise moment
        return moment

    async def busy_lanes(self) -> list[LaneView]:
        return self._busy

    async def undecided(self) -> AsyncGenerator[list[Import], None]:
        yield self._undecided


async def follow(views: ImportViews, *, terminal: bool, total: int | None = None) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
    await follow_batch(views, "b", console=console, total=total, interval_seconds=0)
    return output.getvalue()


@pytest.fixture
def no_wait_between_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.cli.progress.LINE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_wait_between_lines")
async def test_without_a_terminal_each_change_is_a_line_without_control_characters() -> None:
    waiting, running = counts_of(2, waiting=2), counts_of(2, waiting=1, running=1)
    printed = await follow(
        Script(None, waiting, waiting, running, counts_of(2, succeeded=1, failed=1)), terminal=False
    )
    lines = printed.splitlines()
    assert [line.rpartition(", 0.0/s")[0] or line for line in lines[:3]] == [
        "b: 0 of 0 finished (0%)",
        "b: 0 of 2 finished (0%), waiting 2",
        "b: 0 of 2 finished (0%), waiting 1, running 1",
    ]
    assert lines[3].startswith("b: 2 of 2 finished (100%), succeeded 1, failed 1, ")
    assert len(lines) == 4
    assert printed.replace("\n", "").isprintable()


async def test_without_a_terminal_lines_are_seconds_apart_but_the_last_is_never_lost() -> None:
    printed = await follow(
        Script(*(counts_of(9, succeeded=number) for number in range(10))), terminal=False
    )
    assert [line.split(",")[0] for line in printed.splitlines()] == [
        "b: 0 of 9 finished (0%)",
        "b: 9 of 9 finished (100%)",
    ]


async def test_a_terminal_shows_bar_states_pace_and_what_delays_the_batch() -> None:
    printed = await follow(
        Script(
            counts_of(4, waiting=2, running=1, rejected=1),
            counts_of(4, succeeded=3, rejected=1),
            lanes=[lane("ExpiredToken")],
        ),
        terminal=True,
    )
    for piece in ("━", "1/4", "25%", "4/4", "100%", "/s", "elapsed", "lane default/us-east-1 is"):
        assert piece in printed
    assert "paused: ExpiredToken" in printed


async def test_a_throttled_lane_is_named() -> None:
    printed = await follow(
        Script(counts_of(1, waiting=1), counts_of(1, succeeded=1), lanes=[lane("", 3)]),
        terminal=True,
    )
    assert "lane default/us-east-1 is throttled by AWS" in printed


@pytest.mark.usefixtures("no_wait_between_lines")
@pytest.mark.parametrize("terminal", [False, True])
async def test_an_outage_is_reported_and_survived(terminal: bool) -> None:  # noqa: FBT001 - a test parameter
    printed = await follow(
        Script(
            counts_of(1, waiting=1),
            RedisConnectionError("no route to redis://:hidden@store"),
            TimeoutError(),
            counts_of(1, succeeded=1),
        ),
        terminal=terminal,
    )
    assert "the store can't be reached, still trying: no route to" in printed
    assert "hidden" not in printed
    assert "1 of 1 finished" in printed or "1/1" in printed


@pytest.mark.usefixtures("no_wait_between_lines")
async def test_a_batch_that_has_not_fully_arrived_is_waited_for() -> None:
    part, whole = counts_of(1, succeeded=1), counts_of(3, succeeded=3)
    printed = await follow(Script(None, part, whole), terminal=False, total=3)
    lines = printed.splitlines()
    assert lines[0].startswith("b: 0 of 3 finished")
    assert lines[0].endswith("no worker has picked it up yet")
    assert lines[1].startswith("b: 1 of 3 finished")
    assert lines[2].startswith("b: 3 of 3 finished")


async def test_the_display_stops_when_asked() -> None:
    stop = asyncio.Event()
    stop.set()
    console = Console(file=io.StringIO())
    counts = await follow_batch(
        Script(counts_of(2, waiting=2)), "b", console=console, interval_seconds=60, stop=stop
    )
    assert counts == counts_of(2, waiting=2)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "log"])
async def test_undecided_imports_are_named(*, terminal: bool) -> None:
    undecided = Import(
        id="odd",
        state=State.STARTING,
        batch_id="b",
        app_id="d",
        backend_environment_name="staging",
        account="default",
        region="us-east-1",
    )
    others = replace(undecided, id="another", batch_id="another")
    counts = [counts_of(2, succeeded=1, starting=1), counts_of(2, succeeded=2)]
    shown = await follow(Script(*counts, undecided=[others, undecided]), terminal=terminal)
    assert "1 wait for an operator to decide: amplify-import explain odd" in shown


def test_the_pace_is_measured_over_recent_time() -> None:
    pace = Pace(window_seconds=10)
    pace.note(0, 0)
    assert (pace.per_second, pace.seconds_left(5)) == (0, None)
    pace.note(5, 50)
    assert (pace.per_second, pace.seconds_left(20)) == (10, 2)
    pace.note(12, 64)
    assert pace.per_second == 2


def test_the_summary_lists_the_first_failures_and_says_how_to_see_the_others() -> None:
    failures = [
        Import(
            id=f"i{number}",
            state=State.TIMED_OUT,
            app_id=f"d{number}",
            backend_environment_name="staging",
            account="default",
            region="us-east-1",
            error="[bold]not finished",
        )
        for number in range(12)
    ]
    counts = counts_of(20, succeeded=3, timed_out=12, waiting=5)
    output = io.StringIO()
    Console(file=output, width=40).print(summary(counts, failures), soft_wrap=True)
    lines = output.getvalue().splitlines()
    assert lines[0] == "Batch b: 3 of 20 succeeded, 12 did not succeed, 5 not finished."
    assert "  d9/staging  timed_out  [bold]not finished  (i9)" in lines
    assert lines[-1] == "  ... and 2 more: amplify-import status b --failed"


def test_the_exit_code_tells_whether_any_was_unsuccessful() -> None:
    assert exit_code_of(counts_of(2, succeeded=1, running=1)) == 0
    assert exit_code_of(counts_of(2, succeeded=1, cancelled=1)) == 1
