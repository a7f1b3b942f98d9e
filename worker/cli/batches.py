"""`amplify-import batches`: pauses and resumes batches."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from config.settings import Settings, load_settings
from worker.cli.client import DEFAULT_REASON, not_known_batch, open_store
from worker.runtime import store_config
from worker.store.control import BatchControl
from worker.store.views import ImportViews

batch_argument = click.argument("batch_id", metavar="BATCH")


@click.group()
def batches() -> None:
    """Pause a batch, or resume one that is paused.

    A stop rule (--canary and --stop-percent of run and submit) pauses its batch automatically.
    """


@batches.command()
@batch_argument
@click.option(
    "--reason", default="", metavar="TEXT", help="The reason, shown by status and explain."
)
def pause(batch_id: str, reason: str) -> None:
    """Pause a batch: none of its imports starts until you resume it.

    Imports that have started continue. Other batches are not affected.
    """
    asyncio.run(_pause(load_settings(), batch_id, reason.strip() or DEFAULT_REASON))


@batches.command()
@batch_argument
def resume(batch_id: str) -> None:
    """Resume a batch, whoever paused it, without waiting for its canaries.

    From now on, its stop rule counts only imports that end after this.
    """
    asyncio.run(_resume(load_settings(), batch_id))


async def _pause(settings: Settings, batch_id: str, reason: str) -> None:
    async with open_batch(settings, batch_id) as control:
        fresh = await control.pause(batch_id, reason)
    click.echo(
        f"Batch {batch_id} {'is' if fresh else 'was already paused; it stays'} paused until you "
        f"resume it: amplify-import batches resume {batch_id}"
    )


async def _resume(settings: Settings, batch_id: str) -> None:
    async with open_batch(settings, batch_id) as control:
        resumed = await control.resume(batch_id)
    click.echo(f"Batch {batch_id} {'is resumed' if resumed else 'was not paused'}.")


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
