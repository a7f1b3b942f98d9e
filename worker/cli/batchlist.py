"""Lists batches: as a table for wide terminals, as lines, and as objects for programs."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis
from rich.table import Table

from config.text import shown_on_one_line
from worker.cli.lanelist import span
from worker.cli.listing import cell, first_of, make_table
from worker.cli.scheduling import counts_as_json, reason_to_wait
from worker.cli.waiting import what_it_waits_for
from worker.domain.imports import iso_time
from worker.domain.states import UNFINISHED, State
from worker.store.batchlist import an_unfinished_import, batches_after
from worker.store.batchview import BatchCounts
from worker.store.views import ImportViews


class BatchState(StrEnum):
    """How a batch stands. The first of these that applies."""

    COMPLETED = "completed"
    PAUSED = "paused"
    SCHEDULED = "scheduled"
    STALLED = "stalled"
    RUNNING = "running"


STYLE = {
    BatchState.COMPLETED: "green",
    BatchState.PAUSED: "red",
    BatchState.SCHEDULED: "blue",
    BatchState.STALLED: "yellow",
    BatchState.RUNNING: "cyan",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A batch at a moment. `age` and `idle` are in seconds, `idle` since its last progress."""

    counts: BatchCounts
    age: float
    idle: float
    is_stalled: bool

    @property
    def state(self) -> BatchState:
        """How the batch stands."""
        if self.counts.completed:
            return BatchState.COMPLETED
        if self.counts.is_paused:
            return BatchState.PAUSED
        if self.counts.is_scheduled and self.counts.is_idle:
            return BatchState.SCHEDULED
        return BatchState.STALLED if self.is_stalled else BatchState.RUNNING


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A batch, and what holds it up; '' if nothing is known to."""

    standing: Standing
    held_up_by: str

    @property
    def counts(self) -> BatchCounts:
        """The batch in numbers."""
        return self.standing.counts


async def list_batches(
    redis: "Redis",
    wanted: Callable[[Standing], bool],
    stalled_after: float,
    after: str,
    limit: int,
) -> tuple[list[ListedBatch], bool]:
    """Return the wanted batches, newest first, and whether there are more than `limit`."""
    now_ms = await ImportViews(redis).now() * 1000
    fitting = _fitting(redis, wanted, stalled_after, after, now_ms)
    found, more = await first_of(fitting, limit)
    return [ListedBatch(each, await _what_holds_up(redis, each)) for each in found], more


async def _fitting(
    redis: "Redis",
    wanted: Callable[[Standing], bool],
    stalled_after: float,
    after: str,
    now_ms: float,
) -> AsyncGenerator[Standing, None]:
    async with aclosing(batches_after(redis, after)) as pages:
        async for page in pages:
            for counts in page:
                standing = _standing_of(counts, now_ms, stalled_after)
                if wanted(standing):
                    yield standing


def _standing_of(counts: BatchCounts, now_ms: float, stalled_after: float) -> Standing:
    idle = _seconds(now_ms, counts.progressed_at_ms or counts.created_at_ms)
    waits_as_planned = counts.is_scheduled and counts.is_idle
    return Standing(
        counts=counts,
        age=_seconds(now_ms, counts.created_at_ms),
        idle=idle,
        is_stalled=idle >= stalled_after and not (counts.completed or waits_as_planned),
    )


def _seconds(now_ms: float, at_ms: int) -> float:
    return max(0.0, (now_ms - at_ms) / 1000)


async def _what_holds_up(redis: "Redis", standing: Standing) -> str:
    counts = standing.counts
    if counts.completed:
        return ""
    if counts.is_paused:
        return counts.paused_reason
    if reason := reason_to_wait(counts):
        return reason
    if counts.canary:
        return f"its first {counts.canary:,} imports, which run alone until they have ended"
    if not standing.is_stalled:
        return ""
    missing = counts.not_arrived
    if missing and not any(counts.by_state[state] for state in UNFINISHED):
        return f"requests that were announced and have not arrived ({missing:,})"
    item = await an_unfinished_import(redis, counts.batch_id)
    if item is None:
        return f"see amplify-import imports --batch {counts.batch_id}"
    where = await ImportViews(redis).whereabouts(item)
    return f"import {item.id} waits for {what_it_waits_for(item, where)}"


def as_json(batch: ListedBatch) -> dict[str, Any]:
    """Return a batch for JSON output. Values that do not apply are null."""
    counts, standing = batch.counts, batch.standing
    return {
        **counts_as_json(counts),
        "state": standing.state,
        "stalled": standing.is_stalled,
        "unsuccessful": counts.unsuccessful,
        "createdAt": iso_time(counts.created_at_ms),
        "progressedAt": iso_time(counts.progressed_at_ms),
        "heldUpBy": batch.held_up_by or None,
    }


def as_line(batch: ListedBatch) -> str:
    """Return a batch as one line of text."""
    counts, standing = batch.counts, batch.standing
    numbers = [
        f"{counts.by_state[State.SUCCEEDED]:,} of {counts.total:,} succeeded",
        *_some(counts.unsuccessful, "unsuccessful"),
        *_some(counts.by_state[State.WAITING], "waiting"),
        *_some(_running(counts), "running"),
        *_some(counts.held, "held"),
        *_some(counts.not_arrived, "not arrived"),
    ]
    times = f"created {span(standing.age)} ago, last progress {span(standing.idle)} ago"
    parts = [standing.state, ", ".join(numbers), times, *filter(None, [batch.held_up_by])]
    return shown_on_one_line(f"{counts.batch_id}: {'; '.join(parts)}")


def _some(number: int, what: str) -> list[str]:
    return [f"{number:,} {what}"] if number else []


def _running(counts: BatchCounts) -> int:
    """Return how many imports start or run, as lanes count them."""
    return counts.by_state[State.STARTING] + counts.by_state[State.RUNNING]


def as_table(batches: Sequence[ListedBatch]) -> Table:
    """Return the batches as a table, with one row for each."""
    numbers = ("total", "succeeded", "unsuccessful", "waiting", "running", "held")
    table = make_table(("batch", "state", "held up by"), (*numbers, "age", "idle"))
    for batch in batches:
        counts, standing = batch.counts, batch.standing
        arrived = counts.accepted + counts.known
        total = f"{arrived:,} of {counts.total:,}" if arrived < counts.total else f"{arrived:,}"
        table.add_row(
            cell(counts.batch_id),
            total,
            f"{counts.by_state[State.SUCCEEDED]:,}",
            f"{counts.unsuccessful:,}",
            f"{counts.by_state[State.WAITING]:,}",
            f"{_running(counts):,}",
            f"{counts.held:,}",
            span(standing.age),
            span(standing.idle),
            cell(standing.state, STYLE[standing.state]),
            cell(batch.held_up_by or "-"),
        )
    return table
