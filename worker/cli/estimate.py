"""Estimates when an import will start: from its place in the queue and the pace of its lane."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.cli.scheduling import moment_of, reason_to_wait
from worker.domain.imports import Import
from worker.domain.requests import Priority
from worker.domain.schedules import ScheduleError
from worker.domain.shares import PRIORITY_WEIGHTS, START_SHARE
from worker.domain.states import State
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView, Source
from worker.store.views import Whereabouts


@dataclass(frozen=True, slots=True)
class Estimate:
    """In how many seconds an import will probably start, and why. None means unknown.

    Imports that arrive later may start first; the estimate does not include them.
    """

    seconds: float | None
    why: str


def estimate_start(item: Import, where: Whereabouts) -> Estimate | None:
    """Return an estimate of when an import will start; None if it has already started."""
    lane = where.lane
    if item.state is not State.WAITING:
        return None
    if where.held is not None:
        return _estimate_held(where.held, where.batch, _pace(lane))
    if where.holder:
        return Estimate(None, "another import is under way for the same target until its job ends")
    if lane.paused_reason:
        return Estimate(None, "its lane is paused, and it is unknown for how long")
    if where.due_seconds is not None and item.not_before_ms and not (item.attempts or item.error):
        return Estimate(
            where.due_seconds, "its start was delayed until then; it takes its turn at that time"
        )
    if where.due_seconds is not None:
        return Estimate(where.due_seconds, "it kept its place, so it will be first in line then")
    if where.ahead is None:
        return Estimate(None, "its state is changing right now; ask again")
    return _estimate_turn(lane, starts_before(lane, Priority(item.priority), where.ahead))


def _estimate_held(ahead: int, batch: BatchCounts | None, pace: float) -> Estimate:
    """Estimate the start of an import that `ahead` others of its batch precede."""
    if batch is None or batch.is_paused or not batch.is_scheduled:
        return Estimate(None, "its batch is paused, and it is unknown for how long")
    why = f"its batch {reason_to_wait(batch)}; {ahead:,} of the batch come before it"
    now = moment_of(batch.read_at_ms, UTC)
    try:
        start = batch.schedule.finish(ahead, pace, max(now, _next_start(batch)))
    except (ScheduleError, OverflowError):
        start = None
    return Estimate((start - now).total_seconds() if start else None, why)


def _next_start(batch: BatchCounts) -> datetime:
    """Return when the batch starts its next import. Raises OverflowError if that is unknown."""
    return moment_of(batch.next_start_ms or 0, UTC)


def starts_before(lane: LaneView, priority: Priority, ahead: int) -> int:
    """Return how many imports of a lane start before an import of this priority.

    `ahead` is the number of imports of the same priority before it. Waiting imports of other
    priorities take turns in between, in proportion to the weights of their priorities.
    """
    turn = _turn(lane, priority) + ahead / PRIORITY_WEIGHTS[priority]
    others = (
        min(queued, max(0, math.ceil((turn - _turn(lane, other)) * PRIORITY_WEIGHTS[other])))
        for other, queued in lane.queued.items()
        if other is not priority
    )
    return ahead + sum(others)


def _turn(lane: LaneView, priority: Priority) -> float:
    """Return the turn of a priority's next import; one that has none joins at the next turn."""
    turn = lane.turn_of(priority)
    return lane.turn + 1 / PRIORITY_WEIGHTS[priority] if turn is None else turn


def _estimate_turn(lane: LaneView, before: int) -> Estimate:
    most = min(math.inf if most is None else most for most in (lane.max_running, lane.ceiling))
    room = most - lane.running
    pace = _pace(lane)
    starts = f"{before:,} ahead of it"
    if room <= 0:
        return Estimate(None, f"{starts}, as places come free: {most:,} of {most:,} are under way")
    if not pace:
        return Estimate(None, f"{starts}; the lane's pace is not known yet")
    why = f"{starts}, at {pace:.3g} starts a second"
    if lane.start_budget.rate.source is Source.UNKNOWN:
        why += ", which is still being learned"
    if room <= before:
        why += f"; at the earliest, for at most {most:,} may be under way"
    return Estimate(lane.start_blocked_seconds + (before + 1) / pace, why)


def _pace(lane: LaneView) -> float:
    """Return the starts per second that the lane makes now, if enough imports wait."""
    pace = lane.start_budget.pace
    if lane.shared and lane.running:  # starts share the limit with the polls of running jobs
        share = lane.start_share
        return pace * (START_SHARE if share is None else share)
    return pace
