"""`amplify-import retry`: retries imports that did not succeed."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import click

from config.settings import load_settings
from worker.cli.bulk import confirm, for_each
from worker.cli.client import json_option, not_known, open_store
from worker.domain.imports import Import
from worker.domain.outcomes import Retried, RetryVerdict
from worker.domain.states import State
from worker.parameters import store_config
from worker.store.batchview import BatchCounts
from worker.store.store import ImportStore
from worker.store.views import ImportViews

CHOICES: Final = {
    State.FAILED: "those that failed",
    State.TIMED_OUT: "those that timed out",
    State.REJECTED: "those that AWS rejected",
    State.CANCELLED: "those that were cancelled",
}
DEFAULT_CHOICE: Final = (State.FAILED, State.TIMED_OUT, State.REJECTED)
SHOWN: Final = 20

_NOT_RETRIED: Final[Mapping[RetryVerdict, str]] = {
    RetryVerdict.UNDER_WAY: "is still under way",
    RetryVerdict.SUCCEEDED: "succeeded",
    RetryVerdict.LATE: "is not retried: its job succeeded in the end",
    RetryVerdict.INVALID: "was rejected at admission, so there is no valid request to retry",
    RetryVerdict.TOO_LONG: "can't be tried again: the new id, or that of its batch, would be too"
    " long; submit its row under another batchId",
    RetryVerdict.TAKEN: "can't be retried: another import already has the id of the retry",
    RetryVerdict.UNKNOWN: "has expired",
}
_NOT_POSSIBLE: Final = frozenset({RetryVerdict.INVALID, RetryVerdict.TOO_LONG, RetryVerdict.TAKEN})


def choices(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each state by which imports can be chosen."""
    for state, which in reversed(CHOICES.items()):
        name = f"--{state.replace('_', '-')}"
        command = click.option(name, state.value, is_flag=True, help=f"Of a batch: {which}.")(
            command
        )
    return command


@click.command()
@click.argument("name", metavar="IMPORT|BATCH")
@choices
@click.option("--yes", is_flag=True, help="Do not ask before retrying imports of a batch.")
@json_option
@click.pass_context
def retry(
    context: click.Context, /, name: str, *, yes: bool, as_json: bool, **chosen: bool
) -> None:
    """Retry an import that did not succeed, or those of a batch.

    Each retry is a new import of the same request, ID:retry-1, in a batch BATCH:retry-1. The old
    import stays as it is. In a batch, imports that failed, timed out or were rejected by AWS are
    retried; options choose others. Running the command again is harmless: it resumes where it was
    interrupted, and retries no import twice.
    """
    states = tuple(state for state in CHOICES if chosen[state.value])
    context.exit(asyncio.run(_retry(name, states, yes=yes, as_json=as_json)))


async def _retry(name: str, states: Collection[State], *, yes: bool, as_json: bool) -> int:
    settings = load_settings()
    async with open_store(settings) as redis:
        store, views = ImportStore(redis, store_config(settings)), ImportViews(redis)
        item = await views.find(name)
        if item is not None:
            if states:
                raise click.UsageError(
                    f"{name} is an import; the options that choose outcomes work only for a batch."
                )
            retried = await store.retry(item)
            (_print_one_as_json if as_json else _print_one)(item, retried)
            return _code_of({retried.verdict})
        counts = await views.batch(name)
        if counts is None:
            raise not_known(name)
        states = states or DEFAULT_CHOICE
        retry_batch_id, results = await _retry_batch(store, views, counts, states, yes=yes)
    if as_json:
        _print_all_as_json(name, retry_batch_id, results)
    elif retry_batch_id:
        _print_all(name, retry_batch_id, results)
    else:
        click.echo(f"Batch {name}: no import to retry ({_listed(states)}).")
    return _code_of({verdict for _, verdict in results})


def _code_of(verdicts: Collection[RetryVerdict]) -> int:
    """Return the exit code."""
    return 1 if _NOT_POSSIBLE.intersection(verdicts) else 0


def _print_one(item: Import, retried: Retried) -> None:
    match retried.verdict:
        case RetryVerdict.RETRIED:
            batch = f" of batch {item.retry_batch_id}" if item.batch_id else ""
            click.echo(f"Import {item.id} is retried as {retried.retry_id}{batch}.")
            click.echo(f"Follow it: amplify-import status {retried.retry_id}")
        case RetryVerdict.ALREADY:
            click.echo(f"Import {item.id} has already been retried as {retried.retry_id}.")
        case verdict:
            click.echo(f"Import {item.id} {_NOT_RETRIED[verdict]}.")


def _print_one_as_json(item: Import, retried: Retried) -> None:
    members = {
        "importId": item.id,
        "verdict": retried.verdict,
        "retryId": retried.retry_id or None,
        "retryBatchId": item.retry_batch_id or None if retried.retry_id else None,
    }
    click.echo(json.dumps(members))


async def _retry_batch(
    store: ImportStore,
    views: ImportViews,
    counts: BatchCounts,
    states: Collection[State],
    *,
    yes: bool,
) -> tuple[str, list[tuple[str, RetryVerdict]]]:
    """Retry imports of a batch; return the batch of the retries, '' if there are none, and them."""
    batch_id = counts.batch_id
    retry_batch_id = await retry_batch_id_of(views, batch_id, states)
    if not retry_batch_id:
        return "", []
    if not yes:
        confirm(f"Retry {_numbers(counts, states)} imports of batch {batch_id}?")
    results = await retry_members(store, views, counts, states, retry_batch_id)
    return retry_batch_id, results


async def retry_members(
    store: ImportStore,
    views: ImportViews,
    counts: BatchCounts,
    states: Collection[State],
    retry_batch_id: str,
    *,
    shown: bool = True,
) -> list[tuple[str, RetryVerdict]]:
    """Retry a batch's imports in these states; return the id and the verdict of each.

    If `shown` is set, show the progress on standard error.
    """
    batch_id, total = counts.batch_id, sum(counts.by_state[state] for state in states)
    # This may announce too many, as some were retried before and some can't be retried.
    # `close_batch` corrects it.
    earlier = await views.batch(retry_batch_id)
    await store.announce_batch(retry_batch_id, (earlier.accepted if earlier else 0) + total)
    results = await for_each(
        views.own_members(batch_id, states),
        lambda item: _retry_member(store, item),
        doing="retrying",
        total=total,
        shown=shown,
    )
    await store.close_batch(retry_batch_id)
    return results


async def retry_batch_id_of(views: ImportViews, batch_id: str, states: Collection[State]) -> str:
    """Return the id of the batch for a batch's retries; '' if there is nothing to retry."""
    async for items in views.own_members(batch_id, states):
        if items:
            return items[0].retry_batch_id
    return ""


async def _retry_member(store: ImportStore, item: Import) -> tuple[str, RetryVerdict]:
    return item.id, (await store.retry(item)).verdict


def _print_all_as_json(
    batch_id: str, retry_batch_id: str, results: Sequence[tuple[str, RetryVerdict]]
) -> None:
    numbers = Counter(verdict for _, verdict in results)
    members = {
        "batchId": batch_id,
        "retryBatchId": retry_batch_id or None,
        "retried": numbers[RetryVerdict.RETRIED],
        "already": numbers[RetryVerdict.ALREADY],
        "notRetried": [
            {"importId": import_id, "verdict": verdict}
            for import_id, verdict in results
            if verdict in _NOT_RETRIED
        ],
    }
    click.echo(json.dumps(members))


def _print_all(
    batch_id: str, retry_batch_id: str, results: Sequence[tuple[str, RetryVerdict]]
) -> None:
    numbers = Counter(verdict for _, verdict in results)
    retried, already = numbers[RetryVerdict.RETRIED], numbers[RetryVerdict.ALREADY]
    before = f"; {already:,} had already been retried" if already else ""
    click.echo(
        f"Batch {batch_id}: {_imports(retried)} tried again as batch {retry_batch_id}{before}."
    )
    others = [result for result in results if result[1] in _NOT_RETRIED]
    for import_id, verdict in others[:SHOWN]:
        click.echo(f"Import {import_id} {_NOT_RETRIED[verdict]}.")
    if (more := len(others) - SHOWN) > 0:
        click.echo(f"... and {more:,} more that are not retried")
    if retried or already:
        click.echo(f"Follow it: amplify-import watch {retry_batch_id}")


def _imports(number: int) -> str:
    return "1 import is" if number == 1 else f"{number:,} imports are"


def _numbers(counts: BatchCounts, states: Collection[State]) -> str:
    return " and ".join(
        f"{counts.by_state[state]:,} {state}" for state in states if counts.by_state[state]
    )


def _listed(states: Collection[State]) -> str:
    return ", ".join(states)
