"""`amplify-import explain`: what happened to an import, what it waits for, when it will start."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any, Final

import click

from config.settings import load_settings
from worker.cli.client import BadInputError, not_known, open_views
from worker.cli.estimate import Estimate, estimate_start
from worker.cli.lanelist import span
from worker.cli.status import import_as_json
from worker.cli.waiting import what_it_waits_for
from worker.domain.history import Line, What
from worker.domain.imports import Import, iso_time
from worker.domain.states import State
from worker.store.views import ImportViews

_SENTENCES: Final[Mapping[str, str]] = {
    What.ACCEPTED: "accepted",
    What.HELD: "held back by its batch",
    What.RELEASED: "let go by its batch",
    What.PARKED: "waits for its target, which import $holder holds",
    What.START: "start $attempt was made, or was about to be",
    What.THROTTLED: "throttled by AWS; back to its place, not counted",
    What.CONFLICT: "another job is pending on the target; waits behind it, not counted: $error",
    What.LANE_PAUSED: "back to its place: the lane is paused",
    What.GIVEN_BACK: "back to its place: the worker did not make the call",
    What.DOUBT: "a call may have taken effect; AWS is asked: $error",
    What.LISTING: "AWS is asked which jobs the target has, before its start",
    What.UNDECIDED: "waits for a person to decide; $error",
    What.RESOLVED: "decided by hand: resolve --$action",
    What.FOUND: "AWS still knows the job",
    What.NOT_STARTED: "AWS has no job of it; it waits for its start",
    What.RETRY: "AWS has no such job; to be started again in $seconds s: $error",
    What.SILENT: "the worker fell silent during a call ($call); another one takes over",
    What.RUNNING: "job $job_id runs",
    What.STUCK: "takes longer than the soft deadline; still polled",
    What.SUSPECTED: "seems to have ended with a status that no setting calls final: $error",
    What.CANCEL_ASKED: "to be cancelled once the call is answered: $error",
    What.RETRIED: "tried again as $retry_id",
    What.LATE: "its job has ended after all: $outcome",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known of an import. `waits_for` and `estimate` are None where nothing is."""

    item: Import
    now_ms: int
    lines: list[Line]
    waits_for: str | None
    estimate: Estimate | None


@click.command()
@click.argument("name", metavar="IMPORT")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(name: str, *, as_json: bool) -> None:
    """Tell what happened to an import, what it waits for, and when it will probably start.

    Of one that is over, tell how it ended and what may be done.
    """
    explanation = asyncio.run(_explain(name))
    if as_json:
        click.echo(json.dumps(_as_json(explanation)))
    else:
        click.echo("\n".join(_as_text(explanation)))


async def _explain(name: str) -> Explanation:
    async with open_views(load_settings()) as views:
        item = await views.find(name)
        if item is None:
            raise await _no_import(views, name)
        now_ms, lines = await views.history(name)
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
        f"{name} is a batch, and explain tells of one import; see amplify-import status {name}"
    )


def _as_text(told: Explanation) -> list[str]:
    item = told.item
    batch = f", batch {item.batch_id}" if item.batch_id else ""
    lines = [f"Import {item.id}: {item.target}, lane {item.lane}{batch}"]
    if item.retry_of:
        lines.append(f"It tries import {item.retry_of} again.")
    lines += [_line(line, told.now_ms) for line in told.lines]
    if not told.lines:
        lines.append("  nothing was noted of it")
    if told.waits_for:
        lines.append(f"Waits for: {told.waits_for}")
    if told.estimate:
        lines.append(f"Starts: {_when(told.estimate)}")
    if item.is_terminal:
        error = f": {item.error}" if item.error else ""
        lines += [f"Ended: {item.state}{error}", f"To do: {what_to_do(item)}"]
    return lines


def _line(line: Line, now_ms: int) -> str:
    ago = f"{span((now_ms - line.at_ms) / 1000)} ago"
    return f"  {iso_time(line.at_ms)}  {ago:>10}  {sentence(line)}"


def sentence(line: Line) -> str:
    """Return a line of a history as people read it."""
    details = {name: _shown(value) for name, value in line.details.items()}
    default = f"{line.what}: $error" if details.get("error") else line.what
    text = Template(_SENTENCES.get(line.what, default)).safe_substitute(
        {"error": "no reason given", **details}
    )
    if line.details.get("retry_of"):
        text += f", to try import {details['retry_of']} again"
    if line.details.get("adopted"):
        text += "; it was found when AWS was asked"
    if line.times > 1:
        text += f" ({line.times:,} times within {span((line.at_ms - line.since_ms) / 1000)})"
    return text


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _when(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return f"can't be told: {estimate.why}"
    return f"in about {span(estimate.seconds)}: {estimate.why}"


def what_to_do(item: Import) -> str:
    """Return what may be done about an import that is over."""
    if item.state is State.SUCCEEDED:
        return "nothing"
    if item.retried_by:
        return f"nothing; it was retried as {item.retried_by}"
    if item.late_outcome == State.SUCCEEDED:
        return "nothing; its job succeeded after the import had ended"
    if not item.first_start_at_ms and item.state is State.REJECTED:
        return "mend the request, and submit it under another id"
    return f"mend the cause, then: amplify-import retry {item.id}"


def _as_json(told: Explanation) -> dict[str, Any]:
    item, estimate = told.item, told.estimate
    return {
        **import_as_json(item, told.waits_for),
        "retryOf": item.retry_of or None,
        "retriedBy": item.retried_by or None,
        "history": [_line_as_json(line) for line in told.lines],
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
