"""`--dry-run` of `submit` and `run`: what would be imported, when, and how long it would take.

It sends and stores nothing. It takes a file whose rows were checked, so every check that finds
problems in rows (accounts, or the user pools themselves) counts here, too.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click

from config.settings import Settings
from worker.cli.accounts import account_of
from worker.cli.batchfile import BatchFile, Problem, Row
from worker.cli.client import UnreachableError, open_views
from worker.cli.problems import lines_about
from worker.cli.regions import default_regions
from worker.cli.scheduling import described, long_span, shown
from worker.cli.sending import import_id_of
from worker.domain.imports import iso_time
from worker.domain.schedules import Schedule
from worker.domain.shares import START_SHARE
from worker.store.laneview import LaneView, Source

VALID: Final = 0
INVALID: Final = 2
LANES_SHOWN: Final = 20
NO_REGION: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePlan:
    """What a lane would have to start: `imports` of the batch, behind `waiting` others.

    `per_second` is its limit of starts, and None if that is not known yet. `source` says where the
    limit comes from. `end` is when the last import would start; None if unknown.
    """

    lane: str
    imports: int
    waiting: int
    per_second: float | None
    source: str
    end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What would happen to a batch.

    `known` rows are imports already; None if no store could be asked, and `unasked` says why.
    `begin` is when the first import would start, and `end` when the last one would, at the
    earliest; None if not within a year. `end` does not include how long the jobs take.
    """

    batch_id: str
    batch: BatchFile
    schedule: Schedule
    known: int | None
    unasked: str
    lanes: Sequence[LanePlan]
    now: datetime
    begin: datetime | None
    end: datetime | None

    @property
    def is_certain(self) -> bool:
        """Whether the limits of all lanes are known, so that the end is not only a lower bound."""
        return all(lane.per_second is not None for lane in self.lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the store shows. Without a store, `unasked` says why."""

    known: frozenset[str] | None = None
    lanes: Mapping[str, LaneView]
    now: datetime
    unasked: str = ""


def dry_run_submission(
    batch_id: str, batch: BatchFile, schedule: Schedule, settings: Settings, *, as_json: bool
) -> int:
    """Print what submitting a file would do; return the exit code."""
    try:
        seen = asyncio.run(_look(batch_id, batch.rows, settings))
    except UnreachableError as error:
        seen = _Seen(lanes={}, now=datetime.now(UTC), unasked=str(error))
    return _show(_plan(batch_id, batch, schedule, settings, seen), as_json=as_json)


def dry_run_here(
    batch_id: str, batch: BatchFile, schedule: Schedule, settings: Settings, *, as_json: bool
) -> int:
    """Do the same for a batch that has a store of its own, which is not started for this."""
    unasked = "The batch has a store of its own, which a dry run does not start."
    seen = _Seen(lanes={}, now=datetime.now(UTC), unasked=unasked)
    return _show(_plan(batch_id, batch, schedule, settings, seen), as_json=as_json)


async def _look(batch_id: str, rows: Sequence[Row], settings: Settings) -> _Seen:
    async with open_views(settings) as views:
        now = datetime.fromtimestamp(await views.now(), UTC)
        ids = [import_id_of(row, batch_id) for row in rows]
        known = frozenset(await views.known_among(ids))
        lanes = {lane.name: lane for lane in await views.lanes()}
    return _Seen(known=known, lanes=lanes, now=now)


def _plan(
    batch_id: str, batch: BatchFile, schedule: Schedule, settings: Settings, seen: _Seen
) -> DryRun:
    known = seen.known or frozenset()
    new = [row for row in batch.rows if import_id_of(row, batch_id) not in known]
    counted = Counter(_lanes_of(new))
    lanes = [
        _lane_plan(name, number, schedule, settings, seen)
        for name, number in sorted(counted.items())
    ]
    ends = [lane.end for lane in lanes if lane.per_second is not None]
    ends.append(schedule.finish(len(new), math.inf, seen.now))
    known_ends = [end for end in ends if end is not None]
    return DryRun(
        batch_id=batch_id,
        batch=batch,
        schedule=schedule,
        known=None if seen.known is None else len(batch.rows) - len(new),
        unasked=seen.unasked,
        lanes=lanes,
        now=seen.now,
        begin=schedule.finish(0, math.inf, seen.now),
        end=max(known_ends) if len(known_ends) == len(ends) else None,
    )


def _lanes_of(rows: Sequence[Row]) -> list[str]:
    """Return the lane of each row. A region that is not given is that of this machine."""
    regions = default_regions(rows)
    lanes = []
    for row in rows:
        account = account_of(row)
        lanes.append(f"{account}/{row.members.get('region') or regions[account] or NO_REGION}")
    return lanes


def _lane_plan(
    name: str, imports: int, schedule: Schedule, settings: Settings, seen: _Seen
) -> LanePlan:
    view = seen.lanes.get(name)
    rate, source = _rate_of(view) if view else _configured_rate(name, settings)
    waiting = sum(view.queued.values()) if view else 0
    end = schedule.finish(waiting + imports, rate, seen.now) if rate else None
    return LanePlan(
        lane=name, imports=imports, waiting=waiting, per_second=rate, source=source, end=end
    )


def _rate_of(lane: LaneView) -> tuple[float | None, str]:
    limit = lane.start_budget.rate
    if limit.value is None or not lane.shared:
        return limit.value, limit.source
    share = START_SHARE if lane.start_share is None else lane.start_share
    return limit.value * share, limit.source


def _configured_rate(name: str, settings: Settings) -> tuple[float | None, str]:
    limits = settings.lanes.get(name, settings.lane_defaults)
    if limits.shared and limits.shared_rate:
        share = START_SHARE if limits.start_share is None else limits.start_share
        return limits.shared_rate * share, Source.LANE
    rate = limits.start_rate
    return rate, Source.LANE if rate else Source.UNKNOWN


def _show(found: DryRun, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps(_as_json(found)))
    else:
        for line in lines_about(found.batch.warnings):
            click.echo(f"warning: {line}", err=True)
        for line in lines_about(found.batch.problems):
            click.echo(line, err=True)
        click.echo("\n".join(_as_text(found)))
    return INVALID if found.batch.problems else VALID


def _as_text(found: DryRun) -> list[str]:
    rows, bad = len(found.batch.rows), found.batch.bad_rows
    new = rows - (found.known or 0)
    lines = [
        f"Dry run of batch {found.batch_id}: nothing was sent or stored.",
        f"  rows      {rows:,} valid, {bad:,} bad",
        f"  imports   {new:,} new" + (f", {found.known:,} known" if found.known else ""),
    ]
    if found.unasked:
        lines.append(f"            rows that are imports already count as new: {found.unasked}")
    shown_lanes = found.lanes[:LANES_SHOWN]
    lines += (f"  lane      {lane.lane}: {_lane_text(lane, found.now)}" for lane in shown_lanes)
    if (more := len(found.lanes) - LANES_SHOWN) > 0:
        lines.append(f"            ... and {more:,} more lanes")
    if found.schedule:
        lines.append(f"  schedule  {described(found.schedule)}")
    lines.append(f"  begins    {_moment(found.begin, found.now, 'not within a year')}")
    end = _moment(found.end, found.now, "not within a year")
    certainty = "" if found.is_certain else " at the earliest, as not all limits are known"
    lines.append(f"  started   {end}{certainty}")
    return lines


def _lane_text(lane: LanePlan, now: datetime) -> str:
    ahead = f" behind {lane.waiting:,} that wait" if lane.waiting else ""
    if lane.per_second is None:
        return f"{lane.imports:,}{ahead}; its limit is not known yet, and will be learned"
    took = f", {long_span((lane.end - now).total_seconds())}" if lane.end else ""
    rate = f"{lane.per_second:.3g} starts a second ({lane.source})"
    return f"{lane.imports:,}{ahead}, at {rate}{took}"


def _moment(moment: datetime | None, now: datetime, unknown: str) -> str:
    if moment is None:
        return unknown
    seconds = (moment - now).total_seconds()
    return f"{shown(moment)} (in {long_span(seconds)})" if seconds >= 1 else "at once"


def _as_json(found: DryRun) -> dict[str, Any]:
    return {
        "batchId": found.batch_id,
        "dryRun": True,
        "valid": len(found.batch.rows),
        "bad": found.batch.bad_rows,
        "known": found.known,
        "notAsked": found.unasked or None,
        "problems": _problems_as_json(found.batch.problems),
        "warnings": _problems_as_json(found.batch.warnings),
        "lanes": [
            {
                "lane": lane.lane,
                "imports": lane.imports,
                "waiting": lane.waiting,
                "startsPerSecond": lane.per_second,
                "limit": lane.source,
                "startedAt": _iso(lane.end),
            }
            for lane in found.lanes
        ],
        "schedule": found.schedule.as_json() if found.schedule else None,
        "beginsAt": _iso(found.begin),
        "startedAt": _iso(found.end) if found.is_certain else None,
        "startedNotBefore": _iso(found.end),
    }


def _problems_as_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [
        {"line": problem.line, "member": problem.member, "reason": problem.reason}
        for problem in problems
    ]


def _iso(moment: datetime | None) -> str | None:
    return iso_time(round(moment.timestamp() * 1000)) if moment else None
