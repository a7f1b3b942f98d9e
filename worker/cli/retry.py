"""`amplify-import retry`: try imports again that ended badly."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import click

from config.settings import load_settings
from worker.cli.bulk import confirm, for_each
from worker.cli.client import not_known, open_store
from worker.domain.imports import Import
from worker.domain.outcomes import Retried, RetryVerdict
from worker.domain.states import State
from worker.runtime import store_config
from worker.store.store import ImportStore
from worker.store.views import BatchCounts, ImportViews

CHOICES: Final = {
    State.FAILED: "those that failed",
    State.TIMED_OUT: "those that timed out",
    State.REJECTED: "those that AWS rejected",
    State.CANCELLED: "those that were cancelled",
}
DEFAULT_CHOICE: Final = (State.FAILED, State.TIMED_OUT, State.REJECTED)
SHOWN: Final = 20

_TOLD: Final[Mapping[RetryVerdict, str]] = {
    RetryVerdict.UNDER_WAY: "is still under way",
    RetryVerdict.SUCCEEDED: "succeeded",
    RetryVerdict.LATE: "is not tried again: its job succeeded after all",
    RetryVerdict.INVALID: "has no request that could be tried again: it was refused as it came in",
    RetryVerdict.TOO_LONG: "can't be tried again: the new id, or that of its batch, would be too"
    " long; submit its row under another batchId",
    RetryVerdict.TAKEN: "can't be tried again: another import has the id that it would get",
    RetryVerdict.UNKNOWN: "has expired",
}
_NOT_POSSIBLE: Final = frozenset({RetryVerdict.INVALID, RetryVerdict.TOO_LONG, RetryVerdict.TAKEN})


def choices(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each state that imports may be chosen by."""
    for state, which in reversed(CHOICES.items()):
        name = f"--{state.replace('_', '-')}"
        command = click.option(name, state.value, is_flag=True, help=f"Of a batch, {which}.")(
            command
        )
    return command


@click.command()
@click.argument("name", metavar="IMPORT|BATCH")
@choices
@click.option("--yes", is_flag=True, help="Do not ask before imports of a batch are tried again.")
@click.pass_context
def retry(context: click.Context, /, name: str, *, yes: bool, **chosen: bool) -> None:
    """Try an import again that ended badly, or those of a batch.

    Each becomes a new import of the same request, ID:retry-1, and of a batch BATCH:retry-1; the
    old one stays as it is. Of a batch, those that failed, timed out or were rejected by AWS are
    tried again; flags choose others. To run it again makes nothing a second time, and goes on
    where it was interrupted.
    """
    states = tuple(state for state in CHOICES if chosen[state.value])
    context.exit(asyncio.run(_retry(name, states, yes=yes)))


async def _retry(name: str, states: Collection[State], *, yes: bool) -> int:
    settings = load_settings()
    async with open_store(settings) as redis:
        store, views = ImportStore(redis, store_config(settings)), ImportViews(redis)
        item = await views.find(name)
        if item is not None:
            if states:
                raise click.UsageError(f"{name} is an import: flags choose among those of a batch.")
            return _tell_one(item, await store.retry(item))
        counts = await views.batch(name)
        if counts is None:
            raise not_known(name)
        return await _retry_batch(store, views, counts, states or DEFAULT_CHOICE, yes=yes)


def _tell_one(item: Import, retried: Retried) -> int:
    match retried.verdict:
        case RetryVerdict.RETRIED:
            batch = f" of batch {item.retry_batch_id}" if item.batch_id else ""
            click.echo(f"Import {item.id} is tried again as {retried.retry_id}{batch}.")
            click.echo(f"Follow it: amplify-import status {retried.retry_id}")
        case RetryVerdict.ALREADY:
            click.echo(f"Import {item.id} was retried already as {retried.retry_id}.")
        case verdict:
            click.echo(f"Import {item.id} {_TOLD[verdict]}.")
    return 1 if retried.verdict in _NOT_POSSIBLE else 0


async def _retry_batch(
    store: ImportStore,
    views: ImportViews,
    counts: BatchCounts,
    states: Collection[State],
    *,
    yes: bool,
) -> int:
    batch_id, total = counts.batch_id, sum(counts.by_state[state] for state in states)
    retry_batch_id = await _retry_batch_id(views, batch_id, states)
    if not retry_batch_id:
        click.echo(f"Batch {batch_id}: no import to try again ({_listed(states)}).")
        return 0
    if not yes:
        confirm(f"Try {_numbers(counts, states)} imports of batch {batch_id} again?")
    # More may be announced than come: some were retried before, some can't be.
    earlier = await views.batch(retry_batch_id)
    await store.announce_batch(retry_batch_id, (earlier.accepted if earlier else 0) + total)
    results = await for_each(
        views.own_members(batch_id, states),
        lambda item: _retry_member(store, item),
        doing="retrying",
        total=total,
    )
    await store.close_batch(retry_batch_id)
    return _tell_all(batch_id, retry_batch_id, results)


async def _retry_batch_id(views: ImportViews, batch_id: str, states: Collection[State]) -> str:
    """Return the batch that a batch's retries belong to, '' where there is nothing to retry."""
    async for items in views.own_members(batch_id, states):
        if items:
            return items[0].retry_batch_id
    return ""


async def _retry_member(store: ImportStore, item: Import) -> tuple[str, RetryVerdict]:
    return item.id, (await store.retry(item)).verdict


def _tell_all(
    batch_id: str, retry_batch_id: str, results: Sequence[tuple[str, RetryVerdict]]
) -> int:
    numbers = Counter(verdict for _, verdict in results)
    retried, already = numbers[RetryVerdict.RETRIED], numbers[RetryVerdict.ALREADY]
    before = f"; {already:,} were retried already" if already else ""
    click.echo(
        f"Batch {batch_id}: {_imports(retried)} tried again as batch {retry_batch_id}{before}."
    )
    others = [result for result in results if result[1] in _TOLD]
    for import_id, verdict in others[:SHOWN]:
        click.echo(f"Import {import_id} {_TOLD[verdict]}.")
    if (more := len(others) - SHOWN) > 0:
        click.echo(f"... and {more:,} more that are not tried again")
    if retried or already:
        click.echo(f"Follow it: amplify-import watch {retry_batch_id}")
    return 1 if _NOT_POSSIBLE & numbers.keys() else 0


def _imports(number: int) -> str:
    return "1 import is" if number == 1 else f"{number:,} imports are"


def _numbers(counts: BatchCounts, states: Collection[State]) -> str:
    return " and ".join(
        f"{counts.by_state[state]:,} {state}" for state in states if counts.by_state[state]
    )


def _listed(states: Collection[State]) -> str:
    return ", ".join(states)
