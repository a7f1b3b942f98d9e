"""`amplify-import status`: shows the state of an import or of a batch."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import click
from rich.text import Text

from config.settings import load_settings
from worker.cli.client import make_console, not_known, open_views
from worker.cli.summary import (
    FAILURES_SHOWN,
    UNSUCCESSFUL_STATES,
    exit_code_of,
    failure_list,
    summary,
)
from worker.cli.waiting import what_it_waits_for
from worker.cli.watch import print_end
from worker.domain.imports import Import, iso_time
from worker.domain.states import State
from worker.store.batchview import BatchCounts
from worker.store.views import ImportViews, Whereabouts


@click.command()
@click.argument("name", metavar="IMPORT|BATCH")
@click.option("--failed", is_flag=True, help="List all imports of a batch that did not succeed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, name: str, *, failed: bool, as_json: bool) -> None:
    """Show how an import or a batch stands, and what it waits for.

    Exits with 1 if the import, or one of the batch, did not succeed, or if the batch is paused.
    """
    context.exit(asyncio.run(_show(name, failed=failed, as_json=as_json)))


async def _show(name: str, *, failed: bool, as_json: bool) -> int:
    async with open_views(load_settings()) as views:
        item = await views.find(name)
        if item is not None:
            where = None if item.is_terminal else await views.whereabouts(item)
            _print_import(item, where, as_json=as_json)
            return 1 if item.state in UNSUCCESSFUL_STATES else 0
        counts = await views.batch(name)
        if counts is None:
            raise not_known(name)
        failures = await _failures(views, counts, everything=failed)
    if failed and not as_json:
        make_console().print(_all_failures(failures), soft_wrap=True)
    else:
        print_end(make_console(), counts, failures, summary(counts, failures), as_json=as_json)
    return exit_code_of(counts)


async def _failures(views: ImportViews, counts: BatchCounts, *, everything: bool) -> list[Import]:
    if not counts.unsuccessful:
        return []
    limit = counts.unsuccessful if everything else FAILURES_SHOWN
    return await views.members(counts.batch_id, UNSUCCESSFUL_STATES, limit)


def _all_failures(failures: Sequence[Import]) -> Text:
    text = failure_list(failures) if failures else Text("No import failed.")
    text.rstrip()
    return text


def _print_import(item: Import, where: Whereabouts | None, *, as_json: bool) -> None:
    waits_for = what_it_waits_for(item, where) if where else None
    if as_json:
        click.echo(json.dumps(import_as_json(item, waits_for)))
        return
    result = item.result()
    lines = {
        "import": item.id,
        "target": item.target,
        "operation": item.requested_operation,
        "state": item.state,
        "waits for": waits_for,
        "error": result["error"],
        "job": result["jobId"],
        "status": " ".join(filter(None, (item.operation, item.status))),
        "lane": item.lane,
        "batch": item.batch_id,
        "attempts": item.attempts,
        "polls": item.polls,
        "accepted": result["acceptedAt"],
        "started": result["startedAt"],
        "finished": result["finishedAt"],
    }
    if item.late_outcome:
        lines["job ended"] = _late_end(item)
    if item.verification:
        lines["verified"] = ": ".join(filter(None, (item.verification, item.verification_error)))
    for name, value in lines.items():
        click.echo(f"{name:10} {'-' if value in (None, '') else value}")


def _late_end(item: Import) -> str:
    """Return how the job of a timed-out or cancelled import ended later."""
    if item.late_outcome not in frozenset(State):
        return f"unknown: {item.late_error}"
    end = f"{item.late_outcome}, {iso_time(item.late_at_ms)}"
    return f"{end}: {item.late_error}" if item.late_error else end


def import_as_json(item: Import, waits_for: str | None) -> dict[str, Any]:
    """Return an import for JSON output."""
    return {
        **item.result(),
        "state": item.state,
        "requestedOperation": item.requested_operation,
        "account": item.account,
        "region": item.region,
        "batchId": item.batch_id or None,
        "polls": item.polls,
        "lateOutcome": item.late_outcome or None,
        "verification": item.verification or None,
        "verificationError": item.verification_error or None,
        "waitsFor": waits_for,
    }
