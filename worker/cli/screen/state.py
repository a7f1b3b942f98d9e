"""What the screen shows, which row is selected, and how keys move the selection."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from worker.cli.progress import Pace
from worker.cli.screen.reading import Failure, Reading
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView


class Pane(StrEnum):
    """A part of the screen; the value is its title."""

    BATCHES = "batches"
    LANES = "lanes"
    FAILURES = "failures"


PANES = tuple(Pane)


@dataclass(slots=True, kw_only=True)
class Page:
    """Details that cover the panes: of a batch its failures, of a lane or an import its text.

    `at` is the selected failure, or the first line shown.
    """

    pane: Pane
    name: str
    lines: Sequence[str] = ()
    members: Sequence[Failure] = ()
    at: int = 0


@dataclass(slots=True)
class ScreenState:
    """All that a drawing depends on, except the size of the screen.

    A selection follows its row when rows are added or sorted; '' stays with the first row.
    `finished` and `granted` are the paces at which the imports of each batch end and the starts of
    each lane are granted. `outage` says why the store can't be reached, and `message` how the last
    action ended.
    """

    reading: Reading
    active: Pane = Pane.BATCHES
    selected: dict[Pane, str] = field(default_factory=lambda: dict.fromkeys(Pane, ""))
    pages: list[Page] = field(default_factory=list)
    is_help_shown: bool = False
    outage: str = ""
    message: str = ""
    finished: dict[str, Pace] = field(default_factory=dict)
    granted: dict[str, Pace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.take(self.reading)

    def take(self, reading: Reading) -> None:
        """Show a new reading, and measure how fast imports end and calls are granted."""
        self.reading = reading
        self.finished = {
            batch.batch_id: _noted(self.finished.get(batch.batch_id), reading.now, batch.finished)
            for batch in reading.batches
        }
        self.granted = {
            lane.name: _noted(
                self.granted.get(lane.name), lane.read_at_ms / 1000, lane.start_budget.granted
            )
            for lane in reading.lanes
        }

    @property
    def lanes(self) -> list[LaneView]:
        """The lanes: paused ones first, then those with work, each by name."""
        return sorted(self.reading.lanes, key=_lane_order)

    def names_of(self, pane: Pane) -> list[str]:
        """Return the names of a pane's rows, from top to bottom."""
        match pane:
            case Pane.BATCHES:
                return [batch.batch_id for batch in self.reading.batches]
            case Pane.LANES:
                return [lane.name for lane in self.lanes]
            case Pane.FAILURES:
                return [failure.import_id for failure in self.reading.failures]

    def index_of(self, pane: Pane) -> int:
        """Return the index of a pane's selected row; 0 if it has gone."""
        names = self.names_of(pane)
        return names.index(self.selected[pane]) if self.selected[pane] in names else 0

    @property
    def batch(self) -> BatchCounts | None:
        """The batch that keys apply to: that of the page, or the selected one."""
        if self.pages:
            name = self.pages[-1].name if self.pages[-1].pane is Pane.BATCHES else ""
            return next((b for b in self.reading.batches if b.batch_id == name), None)
        if self.active is not Pane.BATCHES:
            return None
        return next(islice(self.reading.batches, self.index_of(Pane.BATCHES), None), None)

    @property
    def lane(self) -> LaneView | None:
        """The lane that keys apply to: that of the page, or the selected one."""
        if self.pages:
            name = self.pages[-1].name if self.pages[-1].pane is Pane.LANES else ""
            return next((lane for lane in self.reading.lanes if lane.name == name), None)
        if self.active is not Pane.LANES:
            return None
        return next(islice(self.lanes, self.index_of(Pane.LANES), None), None)

    @property
    def failure(self) -> Failure | None:
        """The selected failure, on the page of a batch or in the pane."""
        if self.pages:
            page = self.pages[-1]
            shown = self.failures_of(page) if page.pane is Pane.BATCHES else []
            return next(islice(shown, page.at, None), None)
        if self.active is not Pane.FAILURES:
            return None
        return next(islice(self.reading.failures, self.index_of(Pane.FAILURES), None), None)

    def failures_of(self, page: Page) -> list[Failure]:
        """Return the failures of a batch, newest first: those read once, and those since then."""
        new = [each for each in self.reading.failures if each.batch_id == page.name]
        found = {each.import_id: each for each in [*page.members, *new]}
        return sorted(found.values(), key=lambda each: each.at, reverse=True)

    def move(self, by: int) -> None:
        """Move the selection, or scroll a page of text, by so many rows."""
        if self.pages:
            page = self.pages[-1]
            last = len(self.failures_of(page) if page.pane is Pane.BATCHES else page.lines) - 1
            page.at = max(0, min(page.at + by, last))
            return
        names = self.names_of(self.active)
        index = max(0, min(self.index_of(self.active) + by, len(names) - 1))
        self.selected[self.active] = names[index] if index else ""

    def next_pane(self, by: int) -> None:
        """Go to the next pane, or to the one before it."""
        if not self.pages:
            self.active = PANES[(PANES.index(self.active) + by) % len(PANES)]

    def open(self) -> Page | None:
        """Open the page of the selected row, and return it; None if no row is selected."""
        if failure := self.failure:
            page = Page(pane=Pane.FAILURES, name=failure.import_id)
        elif self.pages:
            return None
        elif batch := self.batch:
            page = Page(pane=Pane.BATCHES, name=batch.batch_id)
        elif lane := self.lane:
            page = Page(pane=Pane.LANES, name=lane.name)
        else:
            return None
        self.pages.append(page)
        return page

    def back(self) -> None:
        """Close the help or the page on top."""
        if self.is_help_shown:
            self.is_help_shown = False
        elif self.pages:
            self.pages.pop()


def _noted(pace: Pace | None, now: float, number: int) -> Pace:
    """Return the pace with one more sample."""
    pace = pace or Pace()
    pace.note(now, number)
    return pace


def _lane_order(lane: LaneView) -> tuple[int, str]:
    if lane.paused_reason:
        return 0, lane.name
    return (1 if lane.waiting or lane.running else 2), lane.name
