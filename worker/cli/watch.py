"""`amplify-import watch`: follows batches until all their imports have ended."""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console, RenderableType

from config.settings import Settings, load_settings
from worker.cli.client import make_console, not_known_batch, open_views
from worker.cli.progress import follow_batch, is_plain
from worker.cli.scheduling import counts_as_json
from worker.cli.summary import FAILURES_SHOWN, UNSUCCESSFUL_STATES, exit_code_of, summary
from worker.domain.imports import Import
from worker.store.batchview import BatchCounts
from worker.store.views import ImportViews


@click.command()
@click.argument("batch_ids", metavar="[BATCH]...", nargs=-1)
@click.option("--plain", is_flag=True, help="Print lines instead of drawing on the whole terminal.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the summary as JSON, and progress on stderr."
)
@click.pass_context
def watch(
    context: click.Context, batch_ids: tuple[str, ...], *, plain: bool, as_json: bool
) -> None:
    """Follow batches until all their imports have ended; without BATCH, all that are running.

    On a terminal, this shows batches, lanes and failures on the whole screen; ? lists the keys.
    Otherwise, and with --plain or --json, it prints lines about one batch after the other. These
    also end when the batch is paused and none of its imports is in progress.

    Exits with 0 if all imports succeeded, with 1 if one did not or a batch is paused. To stop
    watching (q or Ctrl-C) changes nothing for the batches.
    """
    settings, batch_ids = load_settings(), tuple(dict.fromkeys(batch_ids))
    if not (plain or as_json or is_plain(make_console())) and sys.stdin and sys.stdin.isatty():
        # prompt_toolkit is slow to import, and the other commands import this module
        from worker.cli.screen.watching import watch_on_screen  # noqa: PLC0415

        context.exit(asyncio.run(watch_on_screen(settings, batch_ids)))
    if not batch_ids:
        raise click.UsageError("Say BATCH: only a terminal shows all batches that are running.")
    context.exit(asyncio.run(_watch_each(settings, batch_ids, plain=plain, as_json=as_json)))


async def _watch_each(
    settings: Settings, batch_ids: Sequence[str], *, plain: bool, as_json: bool
) -> int:
    """Follow one batch after the other; return the highest exit code."""
    code = 0
    for batch_id in batch_ids:
        ending = watch_to_the_end(settings, batch_id, plain=plain, as_json=as_json)
        code = max(code, await ending)
    return code


async def watch_to_the_end(
    settings: Settings,
    batch_id: str,
    *,
    as_json: bool,
    plain: bool = False,
    total: int | None = None,
    more_at: str = "",
    resume_by: str = "",
) -> int:
    """Follow a batch and print its summary; return the exit code.

    With `plain`, print lines even on a terminal. `total` is the number of imports of a batch that
    was just sent and may not have arrived yet. For `more_at` and `resume_by` see `summary`.

    Raises:
        NotKnownError: if there is no such batch and `total` is None.
        UnreachableError: if the store can't be reached at the beginning or at the end.

    """
    async with open_views(settings) as views:
        if total is None and await views.batch(batch_id) is None:
            raise not_known_batch(batch_id)
        progress = make_console(stderr=as_json, plain=plain)
        counts = await follow_batch(views, batch_id, console=progress, total=total)
        failures = await first_failures(views, counts)
    end = summary(counts, failures, more_at, resume_by)
    print_end(make_console(), counts, failures, end, as_json=as_json)
    return exit_code_of(counts)


async def first_failures(views: ImportViews, counts: BatchCounts) -> list[Import]:
    """Return the first imports of a batch that did not succeed, as many as a summary shows."""
    if not counts.unsuccessful:
        return []
    return await views.members(counts.batch_id, UNSUCCESSFUL_STATES, FAILURES_SHOWN)


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
