"""Formats sinks and parked events: as tables, as lines, and as objects for programs."""

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from worker.cli.lanelist import span
from worker.cli.listing import cell, make_table
from worker.store.sinkviews import ParkedEvent, SinkView


def as_json(sink: SinkView) -> dict[str, Any]:
    """Return a sink for JSON output. What is not known is null."""
    return {
        "sink": sink.name,
        "relay": sink.relay or None,
        "unread": sink.unread,
        "pending": sink.pending,
        "oldestSeconds": sink.oldest_seconds,
        "delivered": sink.delivered,
        "deliveredSecondsAgo": sink.delivered_seconds_ago,
        "parked": sink.parked,
        "resending": sink.resending,
        "lost": sink.lost,
        "dropped": sink.dropped,
        "lastError": sink.error or None,
        "lastErrorSecondsAgo": sink.error_seconds_ago,
        "disabled": sink.disabled or None,
    }


def as_line(sink: SinkView) -> str:
    """Return a sink as one line of text."""
    return f"{sink.name}: {'; '.join([_waiting(sink), _parked(sink), *_notes(sink)])}"


def as_table(sinks: Sequence[SinkView]) -> Table:
    """Return the sinks as a table, with one row for each."""
    table = make_table(("sink", "state"), ("unread", "pending", "parked", "lost", "delivered"))
    for sink in sinks:
        is_well = sink.relay and not (sink.parked or sink.disabled)
        table.add_row(
            cell(sink.name),
            *(
                f"{number:,}"
                for number in (
                    sink.unread,
                    sink.pending,
                    sink.parked,
                    sink.lost + sink.dropped,
                    sink.delivered,
                )
            ),
            cell("; ".join(_notes(sink)), style="green" if is_well else "red"),
        )
    return table


def parked_as_json(event: ParkedEvent) -> dict[str, Any]:
    """Return a parked event for JSON output."""
    return {
        "id": event.id,
        "reason": event.reason,
        "attempts": event.attempts,
        "parkedSecondsAgo": event.seconds,
        "event": event.text,
    }


def parked_as_line(event: ParkedEvent) -> str:
    """Return a parked event as one line of text."""
    return f"{event.id}  {_named(event)}  {event.reason} ({_attempts(event)})"


def parked_as_table(events: Sequence[ParkedEvent]) -> Table:
    """Return parked events as a table, with one row for each."""
    table = make_table(("id", "event", "reason"), ("parked", "attempts"))
    for event in events:
        ago = f"{span(event.seconds)} ago"
        named = cell(_named(event))
        table.add_row(cell(event.id), ago, str(event.attempts), named, cell(event.reason))
    return table


def _named(event: ParkedEvent) -> str:
    """Return the event's own id; if the text is no event, its beginning."""
    try:
        return str(json.loads(event.text)["id"])
    except (ValueError, KeyError, TypeError):
        return event.text[:40]


def _attempts(event: ParkedEvent) -> str:
    return "1 attempt" if event.attempts == 1 else f"{event.attempts} attempts"


def _waiting(sink: SinkView) -> str:
    waiting = sink.unread + sink.pending
    oldest = f", the oldest for {span(sink.oldest_seconds)}" if sink.oldest_seconds else ""
    return f"{waiting:,} waiting{oldest}"


def _parked(sink: SinkView) -> str:
    again = f", {sink.resending:,} of them to be sent again" if sink.resending else ""
    return f"{sink.parked:,} parked{again}"


def _notes(sink: SinkView) -> list[str]:
    notes = [f"served by {sink.relay}" if sink.relay else "served by no relay"]
    if sink.disabled:
        notes.append(f"disabled: {sink.disabled}")
    if sink.delivered_seconds_ago is not None:
        notes.append(f"delivered {span(sink.delivered_seconds_ago)} ago")
    if sink.error_seconds_ago is not None:
        notes.append(f"last error {span(sink.error_seconds_ago)} ago: {sink.error}")
    if sink.lost:
        notes.append(f"{sink.lost:,} lost: trimmed off the stream before they were sent")
    if sink.dropped:
        notes.append(f"{sink.dropped:,} dropped: too many were parked")
    return notes
