"""When an import will probably start: from its place, whose turn it is, and its lane's pace."""

import math
from dataclasses import dataclass
from typing import Final

from worker.domain.imports import Import
from worker.domain.requests import Priority
from worker.domain.states import State
from worker.store.laneview import LaneView, Source
from worker.store.views import Whereabouts

WEIGHTS: Final = {Priority.HIGH: 100, Priority.NORMAL: 10, Priority.LOW: 1}
"""The shares of the priorities, as in worker/store/scripts/library/queues.lua."""

START_SHARE: Final = 0.5
"""The part of starts in a shared budget unless configured, as in claim.lua."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """In how many seconds an import will probably start, and why; None where nobody can tell.

    Imports that come later may take turns before it; their number is not foreseen.
    """

    seconds: float | None
    why: str


def estimate_start(item: Import, where: Whereabouts) -> Estimate | None:
    """Return when an import will start; None for one whose start was made already."""
    lane = where.lane
    if item.state is not State.WAITING:
        return None
    if where.held:
        return Estimate(None, "its batch holds it back, and nobody knows for how long")
    if where.holder:
        return Estimate(None, "another import is under way for the same target until its job ends")
    if lane.paused_reason:
        return Estimate(None, "its lane is paused, and nobody knows for how long")
    if where.due_seconds is not None and item.not_before_ms and not (item.attempts or item.error):
        return Estimate(where.due_seconds, "it was asked for no earlier, and takes its turn then")
    if where.due_seconds is not None:
        return Estimate(where.due_seconds, "it kept its place, so it is at the head then")
    if where.ahead is None:
        return Estimate(None, "it is on its way from one place to another; ask again")
    return _estimate_turn(lane, starts_before(lane, Priority(item.priority), where.ahead))


def starts_before(lane: LaneView, priority: Priority, ahead: int) -> int:
    """Return how many imports of a lane start before one with `ahead` of its own priority ahead.

    Those of other priorities take their turns meanwhile, by their weights, as long as any wait.
    """
    turn = _turn(lane, priority) + ahead / WEIGHTS[priority]
    others = (
        min(queued, max(0, math.ceil((turn - _turn(lane, other)) * WEIGHTS[other])))
        for other, queued in lane.queued.items()
        if other is not priority
    )
    return ahead + sum(others)


def _turn(lane: LaneView, priority: Priority) -> float:
    """Return the turn of a priority's next import; one that had none takes it now."""
    turn = lane.fields.get(f"turn_{priority}")
    return float(turn or 0) if turn else float(lane.fields.get("turn", 0)) + 1 / WEIGHTS[priority]


def _estimate_turn(lane: LaneView, before: int) -> Estimate:
    most = min(math.inf if most is None else most for most in (lane.max_running, lane.ceiling))
    room = most - lane.running
    pace = _pace(lane)
    starts = f"{before:,} start before it"
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
    """Return the starts per second that the lane makes now, where enough wait."""
    pace = lane.start_budget.pace
    if lane.shared and lane.running:  # polls are due now and then
        share = lane.start_share
        return pace * (START_SHARE if share is None else share)
    return pace
