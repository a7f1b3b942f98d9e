"""The live display of a batch: drawn in place on a terminal, elsewhere a few lines for a log."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from redis.exceptions import RedisError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from config.text import mask_text
from worker.cli.client import heed_interrupt
from worker.cli.scheduling import reason_to_wait, seconds_left
from worker.cli.summary import STYLE
from worker.domain.states import State
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView
from worker.store.views import ImportViews

LINE_SECONDS: Final = 5.0
RATE_SECONDS: Final = 15.0
LANES_SECONDS: Final = 2.0
READ_SECONDS: Final = 2.0
LANES_SHOWN: Final = 5
FEW: Final = 100
"""If at most this many imports are left and none finishes, look for undecided imports."""


async def follow_batch(
    views: ImportViews,
    batch_id: str,
    *,
    console: Console,
    total: int | None = None,
    interval_seconds: float = 0.25,
    stop: asyncio.Event | None = None,
) -> BatchCounts:
    """Show a batch until all its imports have ended, or `stop` is set; return its last counts.

    If the batch is paused, show it until none of its imports is under way.

    `total` is the number of imports, if the caller knows it. The batch may then not have arrived
    yet, or only in part. While the store can't be reached, the display says so and continues.
    """
    stop = stop or asyncio.Event()
    watcher = _Watcher(views, batch_id, total or 0)
    display: _Display = _Plain(console) if is_plain(console) else _Drawn(console)
    with display.open():
        while True:
            await watcher.look()
            heed_interrupt()
            over = watcher.is_over or watcher.is_stuck or stop.is_set()
            display.show(watcher, last=over)
            if over:
                return watcher.counts
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_seconds):
                    await stop.wait()


def is_plain(console: Console) -> bool:
    """Return whether the output can't be drawn in place: to a file, a pipe, or a dumb terminal."""
    return not console.is_terminal or console.is_dumb_terminal


@dataclass(slots=True)
class Pace:
    """How many imports finished per second, over the last `window_seconds`.

    Times are in seconds of a monotonic clock.
    """

    window_seconds: float = RATE_SECONDS
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, now: float, finished: int) -> None:
        """Record how many imports are finished now."""
        self._samples.append((now, finished))
        while self._samples[0][0] < now - self.window_seconds:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """The rate; 0 until there are two samples."""
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        return max(0, after - before) / (ended - began) if ended > began else 0.0

    def seconds_left(self, left: int) -> float | None:
        """Return the seconds until `left` more are finished at this rate; None if it is 0."""
        return left / self.per_second if self.per_second else None


class _Watcher:
    """The state of the batch and its lanes, updated by each `look`."""

    def __init__(self, views: ImportViews, batch_id: str, total: int) -> None:
        self._views = views
        self._total = total
        self._began = time.monotonic()
        self._lanes_read_at = -math.inf
        self.counts = BatchCounts(
            batch_id=batch_id, accepted=0, expected=total, by_state=dict.fromkeys(State, 0)
        )
        self.pace = Pace()
        self.pace.note(self._began, 0)
        self.lanes: list[LaneView] = []
        self.undecided: list[str] = []
        self.outage = ""
        self._seen = False

    @property
    def is_over(self) -> bool:
        return self.counts.completed and self.counts.finished >= self._total

    @property
    def is_stuck(self) -> bool:
        return self.counts.is_paused and self.counts.is_idle

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    @property
    def left(self) -> int:
        return max(self._total, self.counts.total) - self.counts.finished

    async def look(self) -> None:
        """Read the store once. If that fails, `outage` says why."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                await self._read()
            self.outage = ""
        except (RedisError, OSError) as error:
            self.outage = mask_text(str(error)) or "no answer"

    async def _read(self) -> None:
        counts = await self._views.batch(self.counts.batch_id)
        now = time.monotonic()
        if counts is not None:
            if not self._seen:  # imports that ended before the first look don't count as pace
                self.pace = Pace()
            self._seen = True
            self.counts = counts
            self.pace.note(now, counts.finished)
        if now - self._lanes_read_at >= LANES_SECONDS:
            self.lanes = await self._views.busy_lanes()
            self.undecided = await self._read_undecided()
            self._lanes_read_at = now

    async def _read_undecided(self) -> list[str]:
        if not 0 < self.left <= FEW or self.pace.per_second:
            return []
        pages = [page async for page in self._views.undecided()]
        return [i.id for page in pages for i in page if i.batch_id == self.counts.batch_id]


class _Display(Protocol):
    """Shows the state in a watcher."""

    def open(self) -> AbstractContextManager[object]:
        """Return a context manager that keeps the console for this display."""
        ...

    def show(self, watcher: _Watcher, *, last: bool) -> None:
        """Show the current state; `last` says that nothing follows."""
        ...


class _Drawn:
    """The display on a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def open(self) -> AbstractContextManager[object]:
        return self._live

    def show(self, watcher: _Watcher, *, last: bool) -> None:
        self._live.update(_drawing(watcher, [] if last else _notices(watcher)), refresh=True)


class _Plain:
    """The display in a log: a line after a change, at most one every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: object = None
        self._printed_at = -math.inf

    def open(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, watcher: _Watcher, *, last: bool) -> None:
        seen = (
            watcher.counts,
            bool(watcher.outage),
            _lane_names(watcher),
            tuple(watcher.undecided),
        )
        due = last or watcher.elapsed - self._printed_at >= LINE_SECONDS
        if seen == self._printed or not due:
            return
        self._printed, self._printed_at = seen, watcher.elapsed
        parts = [_plain_counts(watcher), *([] if last else _notices(watcher))]
        self._console.print(Text("; ".join(parts)), soft_wrap=True)


def _drawing(watcher: _Watcher, notices: Sequence[str]) -> RenderableType:
    counts, total = watcher.counts, watcher.left + watcher.counts.finished
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    share = f"{counts.finished:,}/{total:,} {_percent(counts.finished, total):>4}"
    bar.add_row(ProgressBar(total=max(total, 1), completed=counts.finished), share)
    return Group(
        Text(f"batch {counts.batch_id}", style="bold"),
        bar,
        _drawn_counts(counts),
        Text(" · ".join(_times(watcher)), style="dim"),
        *(
            Text(f"! {notice}", style="yellow", no_wrap=True, overflow="ellipsis")
            for notice in notices
        ),
    )


def _drawn_counts(counts: BatchCounts) -> Text:
    text = Text()
    for state, number in counts.by_state.items():
        if number or state is not State.CANCELLED:
            text.append(f"{state} ", style="dim")
            text.append(f"{number:,}   ", style=STYLE[state] if number else "dim")
    return text


def _plain_counts(watcher: _Watcher) -> str:
    counts, total = watcher.counts, watcher.left + watcher.counts.finished
    states = [f"{state} {number}" for state, number in counts.by_state.items() if number]
    share = f"{counts.finished} of {total} finished ({_percent(counts.finished, total)})"
    return f"{counts.batch_id}: " + ", ".join([share, *states, *_times(watcher)])


def _times(watcher: _Watcher) -> list[str]:
    left = seconds_left(watcher.counts, watcher.pace.per_second) if watcher.left else None
    return [
        f"{watcher.pace.per_second:.1f}/s",
        *([f"about {_duration(left)} left"] if left is not None else []),
        f"{_duration(watcher.elapsed)} elapsed",
    ]


def _notices(watcher: _Watcher) -> list[str]:
    """Return sentences that say what delays the batch."""
    notices = [notice for lane in watcher.lanes if (notice := _lane_notice(lane))]
    if len(notices) > LANES_SHOWN:
        notices[LANES_SHOWN:] = [f"{len(notices) - LANES_SHOWN} more lanes are waiting"]
    if waiting := watcher.undecided:
        way = f"amplify-import explain {waiting[0]}"
        notices.insert(0, f"{len(waiting):,} wait for an operator to decide: {way}")
    if watcher.outage:
        notices.insert(0, f"the store can't be reached, still trying: {watcher.outage}")
    elif watcher.left and not watcher.counts.accepted:
        notices.insert(0, "no worker has picked it up yet")
    elif watcher.counts.is_paused:
        notices.insert(0, f"the batch is paused: {watcher.counts.paused_reason}")
    elif reason := reason_to_wait(watcher.counts):
        notices.insert(0, f"{reason}, {watcher.counts.held:,} imports wait")
    elif watcher.counts.canary:
        first, held = watcher.counts.canary, watcher.counts.held
        notices.insert(0, f"its first {first:,} imports run first, {held:,} wait for them")
    return notices


def _lane_notice(lane: LaneView) -> str:
    if lane.paused_reason:
        return f"lane {lane.name} is paused: {lane.paused_reason}"
    if lane.is_throttled:
        return f"lane {lane.name} is throttled by AWS"
    return ""


def _lane_names(watcher: _Watcher) -> tuple[str, ...]:
    """Return the names of paused lanes, whose change is worth a line, unlike throttling."""
    return tuple(lane.name for lane in watcher.lanes if lane.paused_reason)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part // whole if whole else 0}%"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
