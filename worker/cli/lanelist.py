"""How lanes are shown: a table for terminals, a line each for logs, an object each for programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from worker.store.store import StoreConfig
from worker.store.views import LaneView


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit of one class of calls: calls per second, calls at once, and where each is from."""

    rate: float
    rate_from: str
    burst: float
    burst_from: str

    def __str__(self) -> str:
        """Return the rate for people."""
        return f"{self.rate:g}/s ({self.rate_from})"


@dataclass(frozen=True, slots=True)
class Report:
    """A lane with its limits in force, as far as our defaults are those of the workers."""

    lane: LaneView
    start: Limit
    poll: Limit

    @property
    def drain_seconds(self) -> float | None:
        """How long what waits needs to be started at the start rate; None while the lane is paused.

        Conflicts over targets, `max_running` and throttles to come are not foreseen.
        """
        if self.lane.paused_reason:
            return None
        if not self.lane.waiting:
            return 0.0
        return self.lane.start_blocked_seconds + self.lane.waiting / self.start.rate


def report_of(lane: LaneView, defaults: StoreConfig) -> Report:
    """Return the lane with its own limits, or else the defaults."""
    return Report(
        lane,
        start=_limit(lane, "start", defaults.start_rate, defaults.start_burst),
        poll=_limit(lane, "poll", defaults.poll_rate, defaults.poll_burst),
    )


def as_json(report: Report) -> dict[str, Any]:
    """Return a lane as programs read it. What does not apply is null."""
    lane = report.lane
    most = lane.fields.get("max_running")
    return {
        "lane": lane.name,
        "start": {**_limit_as_json(report.start), "blockedSeconds": lane.start_blocked_seconds},
        "poll": {**_limit_as_json(report.poll), "blockedSeconds": lane.poll_blocked_seconds},
        "maxRunning": int(most) if most else None,
        "limitsSetBy": lane.fields.get("limits_set_by"),
        "limitsSetSecondsAgo": lane.seconds_since("limits_set_at_ms"),
        "waiting": lane.waiting,
        "running": lane.running,
        "throttled": int(lane.fields.get("throttled", 0)),
        "last429SecondsAgo": lane.seconds_since("last_429_at_ms"),
        "last429LimitType": lane.fields.get("last_429_limit_type") or None,
        "paused": bool(lane.paused_reason),
        "pausedByHand": lane.held,
        "pausedReason": lane.paused_reason or None,
        "pausedSecondsAgo": lane.seconds_since("paused_at_ms"),
        "nextProbeSeconds": lane.paused_seconds if _is_probed(lane) else None,
        "drainSeconds": report.drain_seconds,
    }


def as_line(report: Report) -> str:
    """Return a lane as one line of a log."""
    lane = report.lane
    parts = [
        f"{lane.waiting:,} waiting",
        f"{_running(lane)} running",
        f"starts {report.start}",
        f"polls {report.poll}",
        _state(lane),
        *_notes(lane),
        *([f"drains in {_span(report.drain_seconds)}"] if report.drain_seconds else []),
    ]
    return f"{lane.name}: {'; '.join(parts)}"


def as_table(reports: Sequence[Report]) -> Table:
    """Return the lanes as a table, a row each."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("lane", overflow="fold", min_width=15)
    for name in ("waiting", "running"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("starts", "polls"):
        table.add_column(name, no_wrap=True)
    table.add_column("drains", justify="right", no_wrap=True)
    table.add_column("state", overflow="fold", min_width=15)
    for report in reports:
        table.add_row(*_row(report))
    return table


def _row(report: Report) -> list[Text]:
    lane = report.lane
    return [
        Text(lane.name),
        Text(f"{lane.waiting:,}"),
        Text(_running(lane)),
        Text(f"{report.start.rate:g}/s\n{report.start.rate_from}"),
        Text(f"{report.poll.rate:g}/s\n{report.poll.rate_from}"),
        Text(f"in {_span(report.drain_seconds)}" if report.drain_seconds else "-"),
        Text(_state(lane), style=_style(lane)).append(
            "".join(f"\n{note}" for note in _notes(lane)), style="default"
        ),
    ]


def _limit(lane: LaneView, call: Literal["start", "poll"], rate: float, burst: float) -> Limit:
    own_rate, own_burst = lane.fields.get(f"{call}_rate"), lane.fields.get(f"{call}_burst")
    return Limit(
        rate=float(own_rate or rate),
        rate_from=_source(own_rate),
        burst=float(own_burst or burst),
        burst_from=_source(own_burst),
    )


def _source(own: str | None) -> str:
    return "configured" if own else "default"


def _limit_as_json(limit: Limit) -> dict[str, Any]:
    return {
        "rate": limit.rate,
        "rateFrom": limit.rate_from,
        "burst": limit.burst,
        "burstFrom": limit.burst_from,
    }


def _notes(lane: LaneView) -> list[str]:
    """Return what else happened: 429s, and limits that were set after the workers' start."""
    notes = []
    if (ago := lane.seconds_since("last_429_at_ms")) is not None:
        limit_type = lane.fields.get("last_429_limit_type")
        said = f" ({limit_type})" if limit_type else ""
        notes.append(
            f"throttled {int(lane.fields.get('throttled', 0)):,} in all, "
            f"last {_span(ago)} ago{said}"
        )
    if (ago := lane.seconds_since("limits_set_at_ms")) is not None:
        notes.append(f"limits set by {lane.fields.get('limits_set_by', 'hand')} {_span(ago)} ago")
    return notes


def _running(lane: LaneView) -> str:
    most = lane.fields.get("max_running")
    return f"{lane.running:,} of {int(most):,}" if most else f"{lane.running:,}"


def _state(lane: LaneView) -> str:
    since = _span(lane.seconds_since("paused_at_ms") or 0)
    if lane.held:
        return f"paused by hand for {since}: {lane.paused_reason}"
    if lane.paused_reason:
        probe = _span(lane.paused_seconds)
        return f"paused for {since}, next probe in {probe}: {lane.paused_reason}"
    blocks = {"starts": lane.start_blocked_seconds, "polls": lane.poll_blocked_seconds}
    blocked = [f"{calls} blocked for {_span(left)}" for calls, left in blocks.items() if left]
    return ", ".join(blocked) or "open"


def _style(lane: LaneView) -> str:
    if lane.paused_reason:
        return "red"
    return "yellow" if lane.start_blocked_seconds or lane.poll_blocked_seconds else "green"


def _is_probed(lane: LaneView) -> bool:
    return bool(lane.paused_reason) and not lane.held


def _span(seconds: float) -> str:
    """Return a length of time, to the unit that matters."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
