"""`amplify-import explain`: shows an import's history, what it waits for, and when it starts."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any, Final

import click

from config.settings import load_settings
from worker.cli.advice import Advice, advice_for
from worker.cli.client import BadInputError, not_known, open_views
from worker.cli.estimate import Estimate, estimate_start
from worker.cli.lanelist import span
from worker.cli.status import import_as_json
from worker.cli.waiting import what_it_waits_for
from worker.domain.history import Line, What
from worker.domain.imports import Import, iso_time
from worker.store.views import ImportViews

_SENTENCES: Final[Mapping[str, str]] = {
    What.ACCEPTED: "accepted",
    What.HELD: "held back by its batch: paused, or waiting for canaries or the schedule",
    What.RELEASED: "released by its batch",
    What.PARKED: "waits for import $holder, which is under way for the same target",
    What.START: "start $attempt: the call was sent, or was about to be",
    What.THROTTLED: "throttled by AWS; back in line, the attempt does not count",
    What.CONFLICT: "waits for another job of the target; the attempt does not count: $error",
    What.LANE_PAUSED: "back in line: the lane is paused",
    What.GIVEN_BACK: "back in line: the worker did not make the call",
    What.UNCHECKED: "back in line: its preflight check has no result yet: $error",
    What.DOUBT: "the outcome of a call is unknown; checking with AWS: $error",
    What.LISTING: "listing the jobs of the target before the start",
    What.UNDECIDED: "waits for an operator to decide; $error",
    What.RESOLVED: "decided by an operator: resolve --$action",
    What.FOUND: "AWS still knows the job",
    What.NOT_STARTED: "AWS has no job for it; waiting to start",
    What.RETRY: "AWS has no job for it; next start in $seconds s: $error",
    What.SILENT: "the worker stopped responding during a call ($call); another worker takes over",
    What.RUNNING: "job $job_id is running",
    What.STUCK: "has passed the soft deadline; still polling",
    What.SUSPECTED: "the job seems to have ended, but no setting lists its status as final: $error",
    What.CANCEL_ASKED: "to be cancelled when the call in progress is answered: $error",
    What.RETRIED: "retried as $retry_id",
    What.LATE: "its job has ended since: $outcome",
    What.UNVERIFIED: "could not be confirmed in AWS: $error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known about an import.

    `waits_for` is None if the import has ended. `estimate` is None if it has ended or started.
    """

    item: Import
    now_ms: int
    lines: list[Line]
    waits_for: str | None
    estimate: Estimate | None


@click.command()
@click.argument("name", metavar="IMPORT")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(name: str, *, as_json: bool) -> None:
    """Show what happened to an import, what it waits for, and when it will probably start.

    For an import that has ended, show how it ended and what you can do.
    """
    explanation = asyncio.run(_explain(name))
    if as_json:
        click.echo(json.dumps(_as_json(explanation)))
    else:
        click.echo("\n".join(as_text(explanation)))


async def _explain(name: str) -> Explanation:
    async with open_views(load_settings()) as views:
        explanation = await explanation_of(views, name)
        if explanation is None:
            raise await _no_import(views, name)
    return explanation


async def explanation_of(views: ImportViews, import_id: str) -> Explanation | None:
    """Return what is known about an import; None if it is not known (any more)."""
    item = await views.find(import_id)
    if item is None:
        return None
    now_ms, lines = await views.history(import_id)
    where = None if item.is_terminal else await views.whereabouts(item)
    return Explanation(
        item=item,
        now_ms=now_ms,
        lines=lines,
        waits_for=what_it_waits_for(item, where) if where else None,
        estimate=estimate_start(item, where) if where else None,
    )


async def _no_import(views: ImportViews, name: str) -> click.ClickException:
    if await views.batch(name) is None:
        return not_known(name)
    return BadInputError(
        f"{name} is a batch; explain shows a single import. See amplify-import status {name}"
    )


def as_text(explanation: Explanation) -> list[str]:
    """Return an explanation as lines of text."""
    item = explanation.item
    batch = f", batch {item.batch_id}" if item.batch_id else ""
    what = f"{item.requested_operation} of {item.target}"
    lines = [f"Import {item.id}: {what}, lane {item.lane}{batch}"]
    if item.retry_of:
        lines.append(f"It tries import {item.retry_of} again.")
    if trace := item.trace:
        lines.append(f"Trace: {trace.trace_id}")
    lines += [_line(line, explanation.now_ms) for line in explanation.lines]
    if not explanation.lines:
        lines.append("  nothing is recorded")
    if explanation.waits_for:
        lines.append(f"Waits for: {explanation.waits_for}")
    if explanation.estimate:
        lines.append(f"Starts: {_when(explanation.estimate)}")
    if item.is_terminal:
        error = f": {item.error}" if item.error else ""
        lines += [f"Ended: {item.state}{error}", f"To do: {what_to_do(item)}"]
    return lines


def _line(line: Line, now_ms: int) -> str:
    ago = f"{span((now_ms - line.at_ms) / 1000)} ago"
    return f"  {iso_time(line.at_ms)}  {ago:>10}  {sentence(line)}"


def sentence(line: Line) -> str:
    """Return a line of a history as a sentence."""
    details = {name: _shown(value) for name, value in line.details.items()}
    default = f"{line.what}: $error" if details.get("error") else line.what
    text = Template(_SENTENCES.get(line.what, default)).safe_substitute(
        {"error": "no reason given", **details}
    )
    if line.details.get("retry_of"):
        text += f", to try import {details['retry_of']} again"
    if line.details.get("adopted"):
        text += "; found in the list of jobs"
    if line.times > 1:
        text += f" ({line.times:,} times within {span((line.at_ms - line.since_ms) / 1000)})"
    return text


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _when(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return f"unknown: {estimate.why}"
    return f"in about {span(estimate.seconds)}: {estimate.why}"


def what_to_do(item: Import) -> str:
    """Return what the user can do about an import that has ended."""
    match advice_for(item):
        case Advice.NOTHING:
            return "nothing"
        case Advice.RETRIED:
            return f"nothing; it has been retried as {item.retried_by}"
        case Advice.SUCCEEDED_LATE:
            return "nothing; its job succeeded after the import had ended"
        case Advice.FIX_REQUEST:
            return "fix the request and submit it under another id"
        case Advice.RETRY:
            return f"fix the cause, then: amplify-import retry {item.id}"


def _as_json(explanation: Explanation) -> dict[str, Any]:
    item, estimate = explanation.item, explanation.estimate
    return {
        **import_as_json(item, explanation.waits_for),
        "retryOf": item.retry_of or None,
        "retriedBy": item.retried_by or None,
        "traceId": item.trace.trace_id if item.trace else None,
        "history": [_line_as_json(line) for line in explanation.lines],
        "startsInSeconds": estimate.seconds if estimate else None,
        "startsWhy": estimate.why if estimate else None,
        "toDo": what_to_do(item) if item.is_terminal else None,
    }


def _line_as_json(line: Line) -> dict[str, Any]:
    return {
        "at": iso_time(line.at_ms),
        "since": iso_time(line.since_ms),
        "what": line.what,
        "times": line.times,
        "details": dict(line.details),
        "text": sentence(line),
    }
