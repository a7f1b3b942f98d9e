"""Draws the screen: lines of styled text for a state and a size. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from worker.cli.lanelist import as_line
from worker.cli.screen.reading import Failure
from worker.cli.screen.rows import (
    BAD,
    BATCH_COLUMNS,
    FAILURE_COLUMNS,
    LANE_COLUMNS,
    batch_cells,
    batch_state,
    clean,
    failure_cells,
    lane_cells,
    under_way,
)
from worker.cli.screen.state import PANES, Page, Pane, ScreenState
from worker.cli.screen.table import (
    Cell,
    Column,
    Fragments,
    fit,
    line_of,
    shown_columns,
    widths_of,
    wrap,
)

NARROWEST: Final = 80
LOWEST: Final = 16
DETAIL_LINES: Final = 2
HEADER: Final = "bold underline"
SELECTED: Final = "reverse"

COLUMNS: Final = {
    Pane.BATCHES: BATCH_COLUMNS,
    Pane.LANES: LANE_COLUMNS,
    Pane.FAILURES: FAILURE_COLUMNS,
}
KEYS: Final = "Enter open  Tab next part  p pause  r resume  t retry  ? help  q quit"
PAGE_KEYS: Final = "Esc back  Enter open  p pause  r resume  t retry  ? help  q quit"
HELP: Final = (
    "Up Down k j        select a row, or scroll",
    "PageUp PageDown    ten rows",
    "Tab Shift-Tab      next part: batches, lanes, failures",
    "Enter              open a batch's failures, a lane, or an import's explanation",
    "Esc Backspace      back",
    "p                  pause the batch or lane; asks for a reason",
    "r                  resume the batch or lane; asks first",
    "t                  retry what did not succeed in the batch; asks first",
    "q Ctrl-C           quit; this changes nothing for the batches",
    "",
    "progress           = succeeded   x failed   > starting or running   . all others",
    "failed             imports that failed, timed out, or were rejected or cancelled",
    "held               imports that wait for a paused batch or for its canaries",
    "left               time to the end, at the rate of the last 15 seconds",
    "starts             starts per second, in the last 15 seconds",
    "limit              starts per second that AWS allows, as far as is known",
    "in use             the share of the limit that is in use",
)


def draw(state: ScreenState, width: int, height: int) -> list[Fragments]:
    """Return `height` lines of `width` cells."""
    if width < NARROWEST or height < LOWEST:
        notice = f"This needs {NARROWEST} x {LOWEST} characters; q quits."
        return _lines([notice], width, height)
    room = height - 2 - DETAIL_LINES
    if state.is_help_shown:
        body, detail = _lines(HELP, width, room), ""
    elif state.pages:
        body, detail = _page(state, state.pages[-1], width, room)
    else:
        body, detail = _panes(state, width, room), _detail(state)
    keys = PAGE_KEYS if state.pages or state.is_help_shown else KEYS
    return [
        _title(state, width),
        *body,
        *_lines(wrap(clean(state.message) or detail, width), width, DETAIL_LINES),
        [(SELECTED, fit(keys, width))],
    ]


def _lines(texts: Iterable[str], width: int, height: int) -> list[Fragments]:
    """Return exactly so many lines of text."""
    lines: list[Fragments] = [[("", fit(text, width))] for text in texts][:height]
    return lines + [[("", " " * width)] for _ in range(height - len(lines))]


def _title(state: ScreenState, width: int) -> Fragments:
    if state.outage:
        text = f"The store can't be reached, still trying: {clean(state.outage)}"
        return [(f"{BAD} reverse bold", fit(text, width))]
    batches = state.reading.batches
    parts = [
        f"{sum(map(under_way, batches)):,} in flight",
        f"{sum(pace.per_second for pace in state.finished.values()):.1f}/s",
        f"{sum(batch.left for batch in batches):,} left",
    ]
    if paused := sum(bool(lane.paused_reason) for lane in state.reading.lanes):
        parts.append(f"{paused:,} lanes paused" if paused > 1 else "1 lane paused")
    return [("reverse bold", fit("   ".join([*parts, "amplify-import watch"]), width))]


def heights_of(state: ScreenState, room: int) -> list[int]:
    """Return the height of each pane with its header: failures get what the others don't need."""
    most = room // 3
    batches = min(most, 1 + max(1, len(state.reading.batches)))
    lanes = min(most, 1 + max(1, len(state.reading.lanes)))
    return [batches, lanes, room - batches - lanes]


def _panes(state: ScreenState, width: int, room: int) -> list[Fragments]:
    lines: list[Fragments] = []
    for pane, height in zip(PANES, heights_of(state, room), strict=True):
        lines += _pane(state, pane, width, height)
    return lines


def _pane(state: ScreenState, pane: Pane, width: int, height: int) -> list[Fragments]:
    columns, count = COLUMNS[pane], len(state.names_of(pane))
    is_active = state.active is pane
    header = [Cell(column.title) for column in columns]
    header[0] = Cell(f"{'>' if is_active else ' '}{header[0].text} ({count:,})")
    lines = [line_of(columns, header, width, HEADER)]
    if not count:
        return lines + _lines([f" no {pane}"], width, height - 1)
    selected = state.index_of(pane)
    first = _first(selected, height - 1, count)
    chosen = range(first, min(count, first + height - 1))
    for index, cells in zip(chosen, _cells(state, pane, chosen, width), strict=True):
        style = SELECTED if is_active and index == selected else ""
        lines.append(line_of(columns, cells, width, style))
    return lines + _lines([], width, height - len(lines))


def _first(selected: int, height: int, count: int) -> int:
    """Return the first row to show, so that the selected one is in the middle if it can be."""
    return max(0, min(selected - height // 2, count - height))


def _cells(state: ScreenState, pane: Pane, chosen: range, width: int) -> list[list[Cell]]:
    rows = slice(chosen.start, chosen.stop)
    match pane:
        case Pane.BATCHES:
            bar = _bar_width(BATCH_COLUMNS, width)
            return [batch_cells(state, batch, bar) for batch in state.reading.batches[rows]]
        case Pane.LANES:
            return [lane_cells(state, lane) for lane in state.lanes[rows]]
        case Pane.FAILURES:
            return [failure_cells(failure) for failure in state.reading.failures[rows]]


def _bar_width(columns: Sequence[Column], width: int) -> int:
    return widths_of([columns[index] for index in shown_columns(columns, width)], width)[1]


def _detail(state: ScreenState) -> str:
    """Return what does not fit into the selected row."""
    if batch := state.batch:
        return clean(f"{batch.batch_id}: {batch_state(batch)}")
    if lane := state.lane:
        return clean(as_line(lane))
    if failure := state.failure:
        return _about(failure)
    return ""


def _about(failure: Failure) -> str:
    return clean(f"{failure.import_id}: {failure.outcome}: {failure.reason}")


def _page(state: ScreenState, page: Page, width: int, room: int) -> tuple[list[Fragments], str]:
    """Return the lines of a page, and the details of what is selected on it."""
    if page.pane is not Pane.BATCHES:
        text = [part for line in page.lines[page.at :] for part in wrap(clean(line), width)]
        return _lines(text, width, room), ""
    failures = state.failures_of(page)
    batch = state.batch
    standing = f": {batch_state(batch)}; {batch.unsuccessful:,} failed" if batch else ""
    title: Fragments = [("bold", fit(clean(f"Batch {page.name}{standing}"), width))]
    header = line_of(FAILURE_COLUMNS, [Cell(c.title) for c in FAILURE_COLUMNS], width, HEADER)
    height = room - 2
    if not failures:
        return [title, header, *_lines([" no failures"], width, height)], ""
    selected = min(page.at, len(failures) - 1)
    first = _first(selected, height, len(failures))
    lines = [
        line_of(FAILURE_COLUMNS, failure_cells(each), width, SELECTED * (index == selected))
        for index, each in enumerate(failures[first : first + height], first)
    ]
    rows = [*lines, *_lines([], width, height - len(lines))]
    return [title, header, *rows], _about(failures[selected])
