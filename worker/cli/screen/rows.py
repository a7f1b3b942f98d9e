"""The rows of the three panes."""

from typing import Final

from config.text import mask_text, shown_on_one_line
from worker.cli.lanelist import drain_seconds, span
from worker.cli.scheduling import reason_to_wait, seconds_left
from worker.cli.screen.reading import Failure
from worker.cli.screen.state import ScreenState
from worker.cli.screen.table import Cell, Column
from worker.domain.states import State
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView, Source

# These colors can be read on a black and on a white background. None of them carries a meaning
# that the text does not say.
GOOD: Final = "ansigreen"
BAD: Final = "ansired"
ATTENTION: Final = "ansimagenta"

BATCH_COLUMNS: Final = (
    Column(title="batch", least=14, most=40),
    Column(title="progress", least=8, most=30),
    Column(title="done", least=4, is_number=True),
    Column(title="waiting", least=7, is_number=True),
    Column(title="running", least=7, is_number=True),
    Column(title="succeeded", least=9, is_number=True),
    Column(title="failed", least=7, is_number=True),
    Column(title="held", least=7, is_number=True),
    Column(title="left", least=7, is_number=True),
    Column(title="rate", least=7, is_number=True, screen=110),
    Column(title="state", least=7, most=200, screen=110),
)
LANE_COLUMNS: Final = (
    Column(title="lane", least=18, most=40),
    Column(title="waiting", least=7, is_number=True),
    Column(title="running", least=9, is_number=True),
    Column(title="starts", least=8, is_number=True),
    Column(title="limit", least=8, is_number=True),
    Column(title="limit is", least=13, screen=110),
    Column(title="in use", least=6, is_number=True),
    Column(title="drains", least=7, is_number=True, screen=95),
    Column(title="state", least=10, most=200),
)
FAILURE_COLUMNS: Final = (
    Column(title="time", least=11),
    Column(title="batch", least=12, most=30),
    Column(title="target", least=17, most=40),
    Column(title="outcome", least=9),
    Column(title="reason", least=26, most=400),
)


def clean(text: str) -> str:
    """Return foreign text for the screen: on one line, without secrets and control characters."""
    return shown_on_one_line(mask_text(text))


def batch_cells(state: ScreenState, batch: BatchCounts, width: int) -> list[Cell]:
    """Return a batch's row, with a bar of `width` cells."""
    by_state, pace = batch.by_state, state.finished[batch.batch_id]
    percent = 100 * batch.finished // batch.total if batch.total else 0
    return [
        Cell(clean(batch.batch_id)),
        Cell(bar_of(batch, width)),
        Cell(f"{percent}%"),
        Cell(f"{by_state[State.WAITING]:,}"),
        Cell(f"{under_way(batch):,}"),
        Cell(f"{by_state[State.SUCCEEDED]:,}", GOOD if by_state[State.SUCCEEDED] else ""),
        Cell(f"{batch.unsuccessful:,}", BAD if batch.unsuccessful else ""),
        Cell(f"{batch.held:,}", ATTENTION if batch.held else ""),
        _time_left(state, batch),
        Cell(_rate(pace.per_second)),
        Cell(clean(batch_state(batch)), _batch_style(batch)),
    ]


def under_way(batch: BatchCounts) -> int:
    """Return how many imports of a batch start or run."""
    return batch.by_state[State.STARTING] + batch.by_state[State.RUNNING]


def bar_of(batch: BatchCounts, width: int) -> str:
    """Return a bar of `width` cells: `=` succeeded, `x` failed, `>` running, `.` all others.

    Any number above 0 has at least one cell, as far as there is room.
    """
    room, bar = width - 2, ""
    succeeded = batch.by_state[State.SUCCEEDED] + batch.known
    for number, mark in ((under_way(batch), ">"), (batch.unsuccessful, "x"), (succeeded, "=")):
        cells = max(1, number * room // batch.total) if number else 0
        bar = mark * min(cells, room - len(bar)) + bar
    filled = bar.rjust(room, bar[0]) if batch.completed else bar.ljust(room, ".")
    return f"[{filled}]"


def batch_state(batch: BatchCounts) -> str:
    """Return how a batch stands, and what holds it up."""
    if batch.completed:
        return "completed"
    if batch.is_paused:
        return f"paused: {batch.paused_reason}"
    if not batch.accepted and not batch.known:
        return "no worker has picked it up yet"
    if reason := reason_to_wait(batch):
        return reason
    if batch.canary:
        return f"its first {batch.canary:,} imports run first, {batch.held:,} wait for them"
    return "running"


def _batch_style(batch: BatchCounts) -> str:
    if batch.is_paused:
        return f"{BAD} bold"
    return BAD if batch.completed and batch.unsuccessful else ""


def _time_left(state: ScreenState, batch: BatchCounts) -> Cell:
    if batch.completed:
        return Cell("done", GOOD)
    if batch.is_paused:
        return Cell("paused", f"{BAD} bold")
    seconds = seconds_left(batch, state.finished[batch.batch_id].per_second)
    return Cell("-" if seconds is None else span(seconds))


def lane_cells(state: ScreenState, lane: LaneView) -> list[Cell]:
    """Return a lane's row."""
    budget, pace = lane.start_budget, state.granted[lane.name]
    limit = budget.rate.value
    in_use = f"{100 * pace.per_second / limit:.0f}%" if limit else "-"
    drains = drain_seconds(lane)
    most = lane.max_running or lane.ceiling
    return [
        Cell(clean(lane.name)),
        Cell(f"{lane.waiting:,}"),
        Cell(f"{lane.running:,}/{most:,}" if most else f"{lane.running:,}"),
        Cell(_rate(pace.per_second)),
        Cell(_rate(limit) if limit else "-"),
        Cell("being learned" if budget.rate.source is Source.UNKNOWN else budget.rate.source),
        Cell(in_use),
        Cell(span(drains) if drains else "-"),
        Cell(clean(lane_state(lane)), _lane_style(lane)),
    ]


def _rate(per_second: float) -> str:
    digits = 1 if per_second < 100 else 0
    return f"{per_second:,.{digits}f}/s"


def lane_state(lane: LaneView) -> str:
    """Return whether a lane is open, and if not, why."""
    if lane.paused_by_operator:
        return f"paused by an operator: {lane.paused_reason}"
    if lane.paused_reason:
        return f"paused, next probe in {span(lane.paused_seconds)}: {lane.paused_reason}"
    if lane.is_throttled:
        return "throttled by AWS"
    return "open"


def _lane_style(lane: LaneView) -> str:
    if lane.paused_reason:
        return f"{BAD} bold"
    return ATTENTION if lane.is_throttled else ""


def failure_cells(failure: Failure) -> list[Cell]:
    """Return a failure's row."""
    return [
        Cell(failure.at[11:19]),
        Cell(clean(failure.batch_id or "-")),
        Cell(clean(failure.target)),
        Cell(clean(failure.outcome), BAD),
        Cell(clean(failure.reason)),
    ]
