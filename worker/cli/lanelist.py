"""Formats lanes: as a table for terminals, as lines for logs, and as objects for programs."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from worker.store.laneview import Budget, LaneView, Limit, Source

CALLS = {"start": "starts", "poll": "polls", "shared": "calls"}


def drain_seconds(lane: LaneView) -> float | None:
    """Return the seconds until all waiting imports have been started; None if that is unknown.

    It is unknown while the lane is paused, or while its rate is not known. The estimate ignores
    imports of the same target, limits of unfinished jobs, and future throttling.
    """
    budget = lane.start_budget
    if lane.paused_reason or not budget.pace:
        return None
    return budget.blocked_seconds + lane.waiting / budget.pace if lane.waiting else 0.0


def as_json(lane: LaneView) -> dict[str, Any]:
    """Return a lane for JSON output. Values that do not apply are null."""
    throttling, by_operator, configured = lane.throttling, lane.set_by_operator, lane.configured
    return {
        "lane": lane.name,
        **{name: _budget_as_json(budget) for name, budget in lane.budgets.items()},
        "maxRunning": lane.max_running,
        "ceiling": lane.ceiling,
        "setByHandBy": by_operator and by_operator.by,
        "setByHandSecondsAgo": by_operator and by_operator.seconds_ago,
        "configuredBy": configured and configured.by,
        "configuredSecondsAgo": configured and configured.seconds_ago,
        "waiting": lane.waiting,
        "running": lane.running,
        "throttled": throttling.total if throttling else 0,
        "last429SecondsAgo": throttling and throttling.seconds_ago,
        "last429Call": throttling and throttling.call,
        "last429LimitType": (throttling and throttling.limit_type) or None,
        "paused": bool(lane.paused_reason),
        "pausedByHand": lane.paused_by_operator,
        "pausedReason": lane.paused_reason or None,
        "pausedSecondsAgo": lane.paused_seconds_ago,
        "nextProbeSeconds": lane.paused_seconds if _is_probed(lane) else None,
        "drainSeconds": drain_seconds(lane),
    }


def as_line(lane: LaneView) -> str:
    """Return a lane as one line of text."""
    drains = drain_seconds(lane)
    parts = [
        f"{lane.waiting:,} waiting",
        f"{_running(lane)} running",
        *(f"{CALLS[name]} {_rate(budget)}" for name, budget in lane.budgets.items()),
        _state(lane),
        *_notes(lane),
        *([f"drains in {span(drains)}"] if drains else []),
    ]
    return f"{lane.name}: {'; '.join(parts)}"


def as_table(lanes: Sequence[LaneView]) -> Table:
    """Return the lanes as a table, with one row for each."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("lane", overflow="fold", min_width=15)
    for name in ("waiting", "running"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("starts", "polls"):
        table.add_column(name, no_wrap=True)
    table.add_column("drains", justify="right", no_wrap=True)
    table.add_column("state", overflow="fold", min_width=15)
    for lane in lanes:
        table.add_row(*_row(lane))
    return table


def _row(lane: LaneView) -> list[Text]:
    budgets = lane.budgets
    starts = budgets.get("start") or budgets["shared"]
    drains = drain_seconds(lane)
    return [
        Text(lane.name),
        Text(f"{lane.waiting:,}"),
        Text(_running(lane)),
        _rate_cell(starts),
        _rate_cell(budgets["poll"]) if "poll" in budgets else Text("as starts"),
        Text(f"in {span(drains)}" if drains else "-"),
        Text(_state(lane), style=_style(lane)).append(
            "".join(f"\n{note}" for note in _notes(lane)), style="default"
        ),
    ]


def _rate_cell(budget: Budget) -> Text:
    burst = f", burst {budget.burst.value:.3g}" if budget.burst.value else ""
    source = budget.rate.source
    shown = "being learned" if source is Source.UNKNOWN else f"{source}{burst}"
    return Text(f"{budget.pace:.3g}/s" if budget.pace else "-").append(f"\n{shown}", style="dim")


def _rate(budget: Budget) -> str:
    burst = f", burst {budget.burst.value:.3g}" if budget.burst.value else ""
    if budget.rate.source is Source.UNKNOWN:
        return f"{budget.pace:.3g}/s (being learned)" if budget.pace else "not known yet"
    return f"{budget.rate.value:.3g}/s ({budget.rate.source}{burst})"


def _budget_as_json(budget: Budget) -> dict[str, Any]:
    return {
        "rate": budget.rate.value,
        "rateFrom": _source_as_json(budget.rate),
        "burst": budget.burst.value,
        "burstFrom": _source_as_json(budget.burst),
        "pace": budget.pace or None,
        "blockedSeconds": budget.blocked_seconds,
    }


def _source_as_json(limit: Limit) -> str | None:
    return None if limit.source is Source.UNKNOWN else str(limit.source)


def _notes(lane: LaneView) -> list[str]:
    """Return notes on throttling, on AWS's limit of unfinished jobs, and on who set limits."""
    notes = []
    if last := lane.throttling:
        notes.append(
            f"throttled {last.total:,} in all, last a {last.call} {span(last.seconds_ago)} ago"
            f" ({last.limit_type or 'no reason given'})"
        )
    if lane.ceiling is not None:
        seems = " apparently" if lane.ceiling_is_suspected else ""
        notes.append(
            f"AWS allows {lane.ceiling:,} unfinished jobs{seems}: starts wait for jobs to end"
        )
    if by_operator := lane.set_by_operator:
        notes.append(
            f"limits set by {by_operator.by or 'hand'} {span(by_operator.seconds_ago)} ago"
        )
    if lane.is_configured and (configured := lane.configured):
        notes.append(f"configured by {configured.by} {span(configured.seconds_ago)} ago")
    return notes


def _running(lane: LaneView) -> str:
    most = lane.max_running
    return f"{lane.running:,} of {most:,}" if most else f"{lane.running:,}"


def _state(lane: LaneView) -> str:
    since = span(lane.paused_seconds_ago or 0)
    if lane.paused_by_operator:
        return f"paused by an operator for {since}: {lane.paused_reason}"
    if lane.paused_reason:
        probe = span(lane.paused_seconds)
        return f"paused for {since}, next probe in {probe}: {lane.paused_reason}"
    blocked = [
        f"{CALLS[name]} blocked for {span(budget.blocked_seconds)}"
        for name, budget in lane.budgets.items()
        if budget.blocked_seconds
    ]
    return ", ".join(blocked) or "open"


def _style(lane: LaneView) -> str:
    if lane.paused_reason:
        return "red"
    return "yellow" if lane.is_throttled else "green"


def _is_probed(lane: LaneView) -> bool:
    return bool(lane.paused_reason) and not lane.paused_by_operator


def span(seconds: float) -> str:
    """Return a duration in the largest unit of which it has at least two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
