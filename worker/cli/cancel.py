"""`amplify-import cancel`: cancels imports that are no longer wanted."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial

import click

from config.settings import load_settings
from worker.cli.bulk import confirm, for_each
from worker.cli.client import DEFAULT_REASON, json_option, not_known, open_store, print_result
from worker.domain.outcomes import Cancellation
from worker.domain.states import UNFINISHED, State
from worker.parameters import store_config
from worker.store.batchview import BatchCounts
from worker.store.store import ImportStore
from worker.store.views import ImportViews


@click.command()
@click.argument("name", metavar="IMPORT|BATCH")
@click.option("--reason", default="", metavar="TEXT", help="Why; it becomes the imports' error.")
@click.option("--yes", is_flag=True, help="Do not ask before cancelling a batch.")
@json_option
def cancel(name: str, reason: str, *, yes: bool, as_json: bool) -> None:
    """Cancel an import, or all imports of a batch that have not ended.

    A waiting import never starts. A job that is already running continues in AWS, and its outcome
    is only recorded. An import with a call in progress is cancelled when that call is answered.
    """
    asyncio.run(_cancel(name, reason.strip() or DEFAULT_REASON, yes=yes, as_json=as_json))


async def _cancel(name: str, reason: str, *, yes: bool, as_json: bool) -> None:
    settings = load_settings()
    async with open_store(settings) as redis:
        store, views = ImportStore(redis, store_config(settings)), ImportViews(redis)
        verdict = await store.cancel(name, reason)
        if verdict is not Cancellation.UNKNOWN:
            members = {"importId": name, "verdict": verdict}
            print_result(f"Import {name} {_as_text(verdict)}.", members, as_json=as_json)
            return
        counts = await views.batch(name)
        if counts is None:
            raise not_known(name)
        left = sum(counts.by_state[state] for state in UNFINISHED)
        if left and not yes:
            _confirm(counts, left)
        cancelled_each = await for_each(
            views.ids_of(name, UNFINISHED),
            partial(store.cancel, reason=reason),
            doing="cancelling",
            total=left,
        )
    _report_batch(counts, Counter(cancelled_each), as_json=as_json)


def _report_batch(
    counts: BatchCounts, verdicts: Mapping[Cancellation, int], *, as_json: bool
) -> None:
    cancelled, asked = verdicts[Cancellation.CANCELLED], verdicts[Cancellation.ASKED]
    missing = counts.not_arrived
    if as_json:
        numbers = {"cancelled": cancelled, "asked": asked, "notArrived": missing}
        click.echo(json.dumps({"batchId": counts.batch_id, **numbers}))
        return
    more = f", and {asked:,} more when their calls are answered" if asked else ""
    click.echo(f"Batch {counts.batch_id}: {cancelled:,} imports are cancelled{more}.")
    if missing:
        click.echo(
            f"{missing:,} more were announced and have not arrived; to hold them back: "
            f"amplify-import batches pause {counts.batch_id}"
        )


def _as_text(verdict: Cancellation) -> str:
    match verdict:
        case Cancellation.CANCELLED:
            return "is cancelled"
        case Cancellation.ASKED:
            return "will be cancelled when the call in progress is answered"
    return "had already ended"


def _confirm(counts: BatchCounts, left: int) -> None:
    running = counts.by_state[State.RUNNING]
    jobs = f", {running:,} of which have a job that continues in AWS" if running else ""
    confirm(f"Cancel {left:,} imports of batch {counts.batch_id}{jobs}?")
