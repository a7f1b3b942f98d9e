"""`amplify-import batches`: lists the batches, and pauses, resumes or schedules one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import click
from click.core import ParameterSource

from config.settings import Settings, load_settings
from worker.cli.batchlist import BatchState, Standing, as_json, as_line, as_table, list_batches
from worker.cli.client import (
    DEFAULT_REASON,
    json_option,
    not_known_batch,
    open_store,
    open_views,
    print_result,
)
from worker.cli.listing import Duration, limit_option, print_listed, print_more
from worker.cli.scheduleoptions import schedule_of, schedule_options
from worker.cli.scheduling import described, reason_to_wait, schedule_as_json
from worker.domain.schedules import Schedule
from worker.parameters import store_config
from worker.store.batchlist import is_indexed
from worker.store.control import BatchControl
from worker.store.views import ImportViews

batch_argument = click.argument("batch_id", metavar="BATCH")


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose batches by how they stand."""
    options = (
        click.option(
            "--running", is_flag=True, help="Batches that are neither completed nor paused."
        ),
        click.option(
            "--paused", is_flag=True, help="Batches that an operator or a stop rule has paused."
        ),
        click.option("--stalled", is_flag=True, help="Batches that make no progress."),
        click.option(
            "--stalled-after",
            type=Duration(),
            default="1h",
            metavar="DURATION",
            help="The time without progress after which a batch is stalled. Default: 1h.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@filters
@limit_option
@click.option("--after", default="", metavar="BATCH", help="List the batches older than this one.")
@click.option("--json", "as_objects", is_flag=True, help="Print each batch as one line of JSON.")
@click.pass_context
def batches(
    context: click.Context,
    /,
    *,
    stalled_after: float,
    limit: int,
    after: str,
    as_objects: bool,
    **chosen: bool,
) -> None:
    """List batches, newest first, or pause, resume or schedule one.

    With several of --running, --paused and --stalled, list the batches that fit any of them. A
    batch makes progress when one of its imports is admitted, begins to run, or ends.

    A stop rule (--canary and --stop-percent of run and submit) pauses its batch automatically.
    """
    if context.invoked_subcommand is None:
        wanted = _wanted(**chosen)
        asyncio.run(_list(wanted, stalled_after, after, limit, as_objects=as_objects))
    else:
        _refuse_options(context)


def _wanted(*, running: bool, paused: bool, stalled: bool) -> Callable[[Standing], bool]:
    """Return a function that says whether a batch fits one of these; each fits if none is set."""

    def wanted(standing: Standing) -> bool:
        chosen = (
            running and not standing.counts.completed and not standing.counts.is_paused,
            paused and standing.state is BatchState.PAUSED,
            stalled and standing.is_stalled,
        )
        return any(chosen) or not (running or paused or stalled)

    return wanted


def _refuse_options(context: click.Context) -> None:
    """Raise UsageError if an option of the list was given with a subcommand."""
    for option in context.command.params:
        source = option.name and context.get_parameter_source(option.name)
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} works only without a subcommand.")


async def _list(
    wanted: Callable[[Standing], bool],
    stalled_after: float,
    after: str,
    limit: int,
    *,
    as_objects: bool,
) -> None:
    async with open_store(load_settings()) as redis:
        if after and not await is_indexed(redis, after):
            raise not_known_batch(after)
        found, more = await list_batches(redis, wanted, stalled_after, after, limit)
    print_listed(
        found,
        nothing="There are no such batches.",
        as_json=as_json if as_objects else None,
        as_line=as_line,
        as_table=as_table,
    )
    if more:
        print_more(found[-1].counts.batch_id)


@batches.command()
@batch_argument
@click.option(
    "--reason", default="", metavar="TEXT", help="The reason, shown by status and explain."
)
@json_option
def pause(batch_id: str, reason: str, *, as_json: bool) -> None:
    """Pause a batch: none of its imports starts until you resume it.

    Imports that have started continue. Other batches are not affected.
    """
    reason = reason.strip() or DEFAULT_REASON
    asyncio.run(_pause(load_settings(), batch_id, reason, as_json=as_json))


@batches.command()
@batch_argument
@json_option
def resume(batch_id: str, *, as_json: bool) -> None:
    """Resume a batch, whoever paused it, without waiting for its canaries.

    From now on, its stop rule counts only imports that end after this.
    """
    asyncio.run(_resume(load_settings(), batch_id, as_json=as_json))


@batches.command()
@batch_argument
@schedule_options
@click.option("--clear", is_flag=True, help="Remove the schedule, except what other options set.")
@json_option
def schedule(
    batch_id: str,
    *,
    start_at: datetime | None,
    window: str | None,
    max_per_hour: int | None,
    clear: bool,
    as_json: bool,
) -> None:
    """Change when a batch may start imports, or show it if no option is given.

    An option replaces that part of the schedule, and the other parts stay. The change applies to
    every import that has not started.
    """
    wanted = schedule_of(start_at, window, max_per_hour)
    passed = start_at is not None and wanted.start_at_ms is None
    if passed:
        wanted = replace(wanted, start_at_ms=0)
    asyncio.run(_schedule(load_settings(), batch_id, wanted, clear=clear, as_json=as_json))


async def _pause(settings: Settings, batch_id: str, reason: str, *, as_json: bool) -> None:
    async with open_batch(settings, batch_id) as control:
        fresh = await control.pause(batch_id, reason)
    print_result(
        f"Batch {batch_id} {'is' if fresh else 'was already paused; it stays'} paused until you "
        f"resume it: amplify-import batches resume {batch_id}",
        {"batchId": batch_id, "paused": True, "changed": fresh},
        as_json=as_json,
    )


async def _resume(settings: Settings, batch_id: str, *, as_json: bool) -> None:
    async with open_batch(settings, batch_id) as control:
        resumed = await control.resume(batch_id)
    print_result(
        f"Batch {batch_id} {'is resumed' if resumed else 'was not paused'}.",
        {"batchId": batch_id, "paused": False, "changed": resumed},
        as_json=as_json,
    )


async def _schedule(
    settings: Settings, batch_id: str, wanted: Schedule, *, clear: bool, as_json: bool
) -> None:
    is_changed = clear or bool(wanted)
    async with open_batch(settings, batch_id) as control:
        if is_changed:
            await control.schedule(batch_id, wanted, clear=clear)
    async with open_views(settings) as views:
        counts = await views.batch(batch_id)
    if counts is None:
        raise not_known_batch(batch_id)
    when = described(counts.schedule) or "at once"
    waits = f"; {reason}" if (reason := reason_to_wait(counts)) else ""
    print_result(
        f"Batch {batch_id} starts imports {when}{waits}.",
        {"batchId": batch_id, **schedule_as_json(counts), "changed": is_changed},
        as_json=as_json,
    )


@asynccontextmanager
async def open_batch(settings: Settings, batch_id: str) -> AsyncIterator[BatchControl]:
    """Yield the control of a batch; close the store at the end.

    Raises:
        NotKnownError: if the store has no such batch, or its record has expired.

    """
    async with open_store(settings) as redis:
        if await ImportViews(redis).batch(batch_id) is None:
            raise not_known_batch(batch_id)
        yield BatchControl(redis, store_config(settings))
