"""`amplify-import batches`: what a person may do to a batch as a whole."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from config.settings import Settings, load_settings
from worker.cli.client import DEFAULT_REASON, not_known_batch, open_store
from worker.runtime import store_config
from worker.store.batches import BatchControl
from worker.store.views import ImportViews

batch_argument = click.argument("batch_id", metavar="BATCH")


@click.group()
def batches() -> None:
    """Pause a batch, or let one go on that is paused.

    A batch pauses itself by its stop rule (--canary and --stop-percent of run and submit).
    """


@batches.command()
@batch_argument
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who wonder.")
def pause(batch_id: str, reason: str) -> None:
    """Pause a batch: none of its imports starts until you resume it.

    Imports that have started go on; other batches are not affected.
    """
    asyncio.run(_pause(load_settings(), batch_id, reason.strip() or DEFAULT_REASON))


@batches.command()
@batch_argument
def resume(batch_id: str) -> None:
    """Let a batch go on, whoever paused it; do not wait for its canaries either.

    Its stop rule judges anew what ends from now on.
    """
    asyncio.run(_resume(load_settings(), batch_id))


async def _pause(settings: Settings, batch_id: str, reason: str) -> None:
    async with open_batch(settings, batch_id) as control:
        fresh = await control.stop(batch_id, reason)
    click.echo(
        f"Batch {batch_id} {'is' if fresh else 'was paused already; it stays'} paused until you "
        f"resume it: amplify-import batches resume {batch_id}"
    )


async def _resume(settings: Settings, batch_id: str) -> None:
    async with open_batch(settings, batch_id) as control:
        resumed = await control.resume(batch_id)
    click.echo(f"Batch {batch_id} {'goes on' if resumed else 'was not paused'}.")


@asynccontextmanager
async def open_batch(settings: Settings, batch_id: str) -> AsyncIterator[BatchControl]:
    """Open the control of a batch for a while.

    Raises:
        NotKnownError: when the batch is not known (any more).

    """
    async with open_store(settings) as redis:
        if await ImportViews(redis).batch(batch_id) is None:
            raise not_known_batch(batch_id)
        yield BatchControl(redis, store_config(settings))
