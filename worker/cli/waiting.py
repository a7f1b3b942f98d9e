"""Describes what an import that has not ended waits for."""

from worker.cli.factlist import most_end
from worker.cli.scheduling import reason_to_wait
from worker.domain.imports import Import
from worker.domain.states import State
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView
from worker.store.views import Whereabouts


def what_it_waits_for(item: Import, where: Whereabouts) -> str:
    """Return what must happen before the import continues, as the end of a sentence."""
    if where.claimed:
        return "the answer to a call in progress"
    if where.held is not None:
        return _batch(item, where.batch)
    if where.holder and where.holder != item.id:
        return f"import {where.holder}, which is under way for the same target"
    if where.lane.paused_reason:
        return _pause(where.lane)
    if item.undecided:
        return f"an operator to decide: {item.undecided}; {resolve_commands(item)}"
    if item.doubt:
        due = _in(where.due_seconds)
        return f"a check with AWS {due}, as the outcome of a call is unknown: {item.doubt_error}"
    if item.suspicion:
        return f"the job to end, though it may have ended already: {item.suspicion}"
    if item.state is State.RUNNING:
        durations = where.lane.facts.durations_of(item.requested_operation)
        usual = f"; most jobs here end {most_end(durations)}" if durations.are_enough else ""
        return f"the job to end; next poll {_in(where.due_seconds)}{usual}"
    if where.due_seconds is not None:
        return f"its next start {_in(where.due_seconds)}" + (f": {item.error}" * bool(item.error))
    return _turn(where)


def _batch(item: Import, batch: BatchCounts | None) -> str:
    if batch and (reason := reason_to_wait(batch)):
        return f"the schedule of its batch {item.batch_id}: {reason}"
    return (
        f"its batch {item.batch_id}, which is paused or waits for its canaries; "
        "see amplify-import batches"
    )


def resolve_commands(item: Import) -> str:
    """Return the command with which an operator decides about an undecided import."""
    other = "--succeed" if item.job_id else "--start-again"
    return f"amplify-import resolve {item.id} --adopt JOB | {other} | --fail"


def _pause(lane: LaneView) -> str:
    if lane.paused_by_operator:
        return f"its lane {lane.name}, which an operator paused: {lane.paused_reason}"
    return (
        f"its lane {lane.name}, which is paused: {lane.paused_reason} "
        f"(next attempt {_in(lane.paused_seconds)})"
    )


def _turn(where: Whereabouts) -> str:
    lane = where.lane
    before = f"{where.ahead:,} ahead of it in its priority" if where.ahead else "it is next"
    if most := lane.max_running:
        before += f"; {lane.running} of {most} are under way"
    if lane.ceiling is not None and lane.running >= lane.ceiling:
        before += f"; AWS allows {lane.ceiling} unfinished jobs"
    if lane.is_unknown and lane.running:
        before += "; the lane's first imports must show how AWS reports its jobs"
    if lane.start_blocked_seconds:
        before += f"; AWS throttles; starts resume {_in(lane.start_blocked_seconds)}"
    return f"its turn in lane {lane.name}: {before}"


def _in(seconds: float | None) -> str:
    return f"in {seconds:.0f} s" if seconds and seconds >= 0.5 else "now"
