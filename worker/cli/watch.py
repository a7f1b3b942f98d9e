"""`amplify-import watch`: follows a batch until all its imports have ended."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console, RenderableType

from config.settings import Settings, load_settings
from worker.cli.client import make_console, not_known_batch, open_views
from worker.cli.progress import follow_batch
from worker.cli.summary import FAILURES_SHOWN, UNSUCCESSFUL_STATES, exit_code_of, summary
from worker.domain.imports import Import
from worker.store.batchview import BatchCounts


@click.command()
@click.argument("batch_id", metavar="BATCH")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the summary as JSON, and progress on stderr."
)
@click.pass_context
def watch(context: click.Context, batch_id: str, *, as_json: bool) -> None:
    """Follow a batch until all imports have ended, or it is paused and none is in progress.

    Exits with 0 if all of them succeeded, with 1 if one did not or the batch is paused. To stop
    watching (Ctrl-C) changes nothing for the batch.
    """
    context.exit(asyncio.run(watch_to_the_end(load_settings(), batch_id, as_json=as_json)))


async def watch_to_the_end(
    settings: Settings,
    batch_id: str,
    *,
    as_json: bool,
    total: int | None = None,
    more_at: str = "",
    resume_by: str = "",
) -> int:
    """Follow a batch and print its summary; return the exit code.

    `total` is the number of imports of a batch that was just sent and may not have arrived yet. For
    `more_at` and `resume_by` see `summary`.

    Raises:
        NotKnownError: if there is no such batch and `total` is None.
        UnreachableError: if the store can't be reached at the beginning or at the end.

    """
    async with open_views(settings) as views:
        if total is None and await views.batch(batch_id) is None:
            raise not_known_batch(batch_id)
        progress = make_console(stderr=as_json)
        counts = await follow_batch(views, batch_id, console=progress, total=total)
        failures: list[Import] = []
        if counts.unsuccessful:
            failures = await views.members(batch_id, UNSUCCESSFUL_STATES, FAILURES_SHOWN)
    end = summary(counts, failures, more_at, resume_by)
    print_end(make_console(), counts, failures, end, as_json=as_json)
    return exit_code_of(counts)


def print_end(
    console: Console,
    counts: BatchCounts,
    failures: Sequence[Import],
    end: RenderableType,
    *,
    as_json: bool,
) -> None:
    """Print `end`, or with `as_json` the counts and failures of the batch."""
    if as_json:
        click.echo(json.dumps(batch_as_json(counts, failures)))
    else:
        console.print(end, soft_wrap=True)


def batch_as_json(counts: BatchCounts, failures: Sequence[Import]) -> dict[str, Any]:
    """Return a batch for JSON output; `failures` are imports that did not succeed."""
    return {**counts_as_json(counts), "failures": [item.result() for item in failures]}


def counts_as_json(counts: BatchCounts) -> dict[str, Any]:
    """Return the counts of a batch for JSON output."""
    return {
        "batchId": counts.batch_id,
        "total": counts.total,
        "accepted": counts.accepted,
        "known": counts.known,
        "expected": counts.expected,
        "finished": counts.finished,
        "completed": counts.completed,
        "held": counts.held,
        "stoppedReason": counts.paused_reason or None,
        "states": {str(state): number for state, number in counts.by_state.items()},
    }
