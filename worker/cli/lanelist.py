"""How lanes are shown: a table for terminals, a line each for logs, an object each for programs."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from worker.store.laneview import Budget, LaneView, Limit, Source

CALLS = {"start": "starts", "poll": "polls", "shared": "calls"}


def drain_seconds(lane: LaneView) -> float | None:
    """Return how long what waits needs to be started; None where nobody can tell.

    That is while the lane is paused or its rate not known. Conflicts over targets, limits of
    unfinished jobs and throttles to come are not foreseen.
    """
    budget = lane.start_budget
    if lane.paused_reason or not budget.pace:
        return None
    return budget.blocked_seconds + lane.waiting / budget.pace if lane.waiting else 0.0


def as_json(lane: LaneView) -> dict[str, Any]:
    """Return a lane as programs read it. What does not apply is null."""
    return {
        "lane": lane.name,
        **{name: _budget_as_json(budget) for name, budget in lane.budgets.items()},
        "maxRunning": lane.max_running,
        "ceiling": lane.ceiling,
        "setByHandBy": lane.fields.get("hand_by"),
        "setByHandSecondsAgo": lane.seconds_since("hand_at_ms"),
        "configuredBy": lane.configured_by,
        "configuredSecondsAgo": lane.configured_seconds_ago,
        "waiting": lane.waiting,
        "running": lane.running,
        "throttled": int(lane.fields.get("throttled", 0)),
        "last429SecondsAgo": lane.seconds_since("last_429_at_ms"),
        "last429Call": lane.fields.get("last_429_call"),
        "last429LimitType": lane.fields.get("last_429_limit_type") or None,
        "paused": bool(lane.paused_reason),
        "pausedByHand": lane.held,
        "pausedReason": lane.paused_reason or None,
        "pausedSecondsAgo": lane.seconds_since("paused_at_ms"),
        "nextProbeSeconds": lane.paused_seconds if _is_probed(lane) else None,
        "drainSeconds": drain_seconds(lane),
    }


def as_line(lane: LaneView) -> str:
    """Return a lane as one line of a log."""
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
    """Return the lanes as a table, a row each."""
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
    """Return what else there is to know: 429s, a ceiling, and who set limits."""
    notes = []
    if (ago := lane.seconds_since("last_429_at_ms")) is not None:
        why = lane.fields.get("last_429_limit_type") or "no reason given"
        notes.append(
            f"throttled {int(lane.fields.get('throttled', 0)):,} in all, "
            f"last a {lane.fields.get('last_429_call', 'call')} {span(ago)} ago ({why})"
        )
    if lane.ceiling is not None:
        seems = " as it seems" if "ceiling_suspected" in lane.fields else ""
        notes.append(f"AWS allows {lane.ceiling:,} unfinished jobs{seems}: starts wait for ends")
    if (ago := lane.seconds_since("hand_at_ms")) is not None:
        notes.append(f"limits set by {lane.fields.get('hand_by', 'hand')} {span(ago)} ago")
    if lane.is_configured and (ago := lane.configured_seconds_ago) is not None:
        notes.append(f"configured by {lane.configured_by} {span(ago)} ago")
    return notes


def _running(lane: LaneView) -> str:
    most = lane.max_running
    return f"{lane.running:,} of {most:,}" if most else f"{lane.running:,}"


def _state(lane: LaneView) -> str:
    since = span(lane.seconds_since("paused_at_ms") or 0)
    if lane.held:
        return f"paused by hand for {since}: {lane.paused_reason}"
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
    return bool(lane.paused_reason) and not lane.held


def span(seconds: float) -> str:
    """Return a length of time, to the unit that matters."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
