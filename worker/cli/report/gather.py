"""Reads a batch page by page, and keeps only what the report shows.

Of an import that ended well, four times are kept. Durations are in seconds, and times are
milliseconds since the epoch on the store's clock.
"""

import heapq
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from worker.cli.advice import Advice, advice_for
from worker.cli.report.markup import clipped
from worker.domain.events import EventType
from worker.domain.imports import Import
from worker.domain.states import State
from worker.store.batchview import BatchCounts, BatchSettings
from worker.store.laneview import LaneView
from worker.store.views import ImportViews

REASONS_KEPT: Final = 1000
EXAMPLES: Final = 3
SLOWEST: Final = 10
NO_REASON: Final = "no reason given"
OTHER_REASONS: Final = "other reasons"

_NAMES: Final = re.compile(r"[\w@+=-]+(?:[.:]+[\w@+=-]+)*")


@dataclass(slots=True)
class Reason:
    """Imports that ended in the same state, for the same reason, with the same next step."""

    state: State
    text: str
    advice: Advice
    retry_batch_id: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LaneUse:
    """What a batch did in one lane. `view` is the lane as it stands now; None if it is unknown."""

    imports: int = 0
    unfinished: int = 0
    unsuccessful: int = 0
    starts_ms: "array[int]" = field(default_factory=lambda: array("q"))
    view: LaneView | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of the batch; `until_ms` is 0 while it lasts."""

    since_ms: int
    reason: str
    until_ms: int = 0


@dataclass(slots=True, kw_only=True)
class Gathered:
    """A batch, as its report shows it.

    `counts` covers all imports. Everything else covers the `read` imports whose records are still
    in the store; `expired` records are not. `slowest` has the seconds for which imports ran.
    """

    counts: BatchCounts
    settings: BatchSettings
    read_at_ms: int
    pauses: list[Pause] = field(default_factory=list)
    read: int = 0
    expired: int = 0
    undecided: int = 0
    stuck: int = 0
    accepted_ms: "array[int]" = field(default_factory=lambda: array("q"))
    starts_ms: "array[int]" = field(default_factory=lambda: array("q"))
    ends_ms: "array[int]" = field(default_factory=lambda: array("q"))
    waited: "array[float]" = field(default_factory=lambda: array("d"))
    ran: "array[float]" = field(default_factory=lambda: array("d"))
    lanes: dict[str, LaneUse] = field(default_factory=dict)
    reasons: dict[tuple[str, ...], Reason] = field(default_factory=dict)
    slowest: list[tuple[float, str, Import]] = field(default_factory=list)

    @property
    def first_ms(self) -> int:
        """When the first import was accepted."""
        return min(self.accepted_ms, default=self.read_at_ms)

    @property
    def last_ms(self) -> int:
        """When the last import ended, or the batch was read if some have not ended."""
        return max(self.ends_ms, default=self.read_at_ms) if self.is_over else self.read_at_ms

    @property
    def is_over(self) -> bool:
        """Whether no import of the batch is left, and none is to arrive."""
        return self.counts.completed

    def add(self, item: Import) -> None:
        """Take up one import."""
        self.read += 1
        lane = self.lanes.setdefault(item.lane, LaneUse())
        lane.imports += 1
        self.accepted_ms.append(item.accepted_at_ms)
        if item.started_at_ms:
            self.starts_ms.append(item.started_at_ms)
            lane.starts_ms.append(item.started_at_ms)
            self.waited.append(max(0, item.started_at_ms - item.accepted_at_ms) / 1000)
        if not item.is_terminal:
            lane.unfinished += 1
            self.undecided += bool(item.undecided)
            self.stuck += item.stuck
            return
        self.ends_ms.append(item.finished_at_ms)
        if item.state is not State.SUCCEEDED:
            lane.unsuccessful += 1
            self._add_reason(item)
        if item.started_at_ms:
            self._add_run(item, max(0, item.finished_at_ms - item.started_at_ms) / 1000)

    def _add_run(self, item: Import, seconds: float) -> None:
        self.ran.append(seconds)
        place = heapq.heappush if len(self.slowest) < SLOWEST else heapq.heappushpop
        place(self.slowest, (seconds, item.id, item))

    def _add_reason(self, item: Import) -> None:
        advice = advice_for(item)
        text = common_reason(item)
        if len(self.reasons) >= REASONS_KEPT and (item.state, text, advice) not in self.reasons:
            text = OTHER_REASONS
        key = (item.state, text, advice)
        fresh = Reason(item.state, text, advice, item.retry_batch_id)
        reason = self.reasons.setdefault(key, fresh)
        reason.count += 1
        if len(reason.examples) < EXAMPLES:
            reason.examples.append(item.id)


def common_reason(item: Import) -> str:
    """Return why an import did not succeed, with `…` for its own names, so that reasons repeat."""
    names = {item.id, item.app_id, item.job_id, item.target}
    text = _NAMES.sub(lambda found: "…" if found.group() in names else found.group(), item.error)
    return clipped(text) or NO_REASON


async def gather(
    views: ImportViews, counts: BatchCounts, advance: Callable[[int], None]
) -> Gathered:
    """Read a batch. Calls `advance` with the number of imports of each page."""
    found = Gathered(
        counts=counts,
        settings=await views.batch_settings(counts.batch_id),
        read_at_ms=round(1000 * await views.now()),
    )
    async for page in views.member_pages(counts.batch_id):
        for item in page.items:
            if item.batch_id == counts.batch_id:
                found.add(item)
        found.expired += page.expired
        advance(len(page.items) + page.expired)
    for name, lane in found.lanes.items():
        lane.view = await views.lane(name)
    if found.settings.pauses:
        found.pauses = await _pauses(views, counts.batch_id)
    return found


async def _pauses(views: ImportViews, batch_id: str) -> list[Pause]:
    """Return the pauses of a batch that the event stream still contains."""
    pauses: list[Pause] = []
    after = "0"
    while entries := await views.events(after):
        for after, event in entries:
            data, at_ms = event["data"], int(after.partition("-")[0])
            if data.get("batchId") != batch_id:
                continue
            if event["type"] == EventType.BATCH_PAUSED:
                pauses.append(Pause(at_ms, data.get("reason") or NO_REASON))
            elif event["type"] == EventType.BATCH_RESUMED and pauses:
                pauses[-1] = Pause(pauses[-1].since_ms, pauses[-1].reason, at_ms)
    return pauses
