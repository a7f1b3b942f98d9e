"""`amplify-import recover`: rebuilds a batch whose store was lost, from its file and from AWS."""

import asyncio
import json
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import click

from config.settings import load_settings
from worker.cli.batchfile import BatchFile
from worker.cli.client import open_views
from worker.cli.scheduleoptions import schedule_of, schedule_options
from worker.cli.submit import (
    batch_id_of,
    batch_id_option,
    file_argument,
    read_file,
    send,
    sent_as_json,
    show_problems,
)
from worker.cli.watch import watch_to_the_end


class Moment(click.ParamType[datetime]):
    """A time in ISO 8601. Without a UTC offset, it is UTC."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time; if it is invalid, fail with a message that shows the format."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is not a time; it must look like 2026-11-24T08:00 (UTC)", param, ctx
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


since_option: Final = click.option(
    "--since",
    required=True,
    type=Moment(),
    help="When the batch was first submitted, by AWS's clock (UTC by default). Older jobs of its"
    " targets are not adopted.",
)


@click.command()
@file_argument
@since_option
@batch_id_option
@click.option(
    "--skip-invalid", is_flag=True, help="Recover the valid rows of a file that has invalid ones."
)
@schedule_options
@click.option(
    "--watch", "watching", is_flag=True, help="Follow the batch until all imports have ended."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; the rest on stderr.")
@click.pass_context
def recover(
    context: click.Context,
    /,
    file: str,
    since: datetime,
    batch_id: str,
    *,
    skip_invalid: bool,
    watching: bool,
    as_json: bool,
    **when: Any,
) -> None:
    """Rebuild a batch whose store was lost, and continue it.

    Pass the same file and --batch-id as to submit, and when you submitted it. Workers first list
    each target's jobs in AWS. They follow a job that started since then to its end, and start the
    import only if the list shows none. So recover before AWS's lists forget the jobs. Pass the
    schedule, too. It is safe to repeat. For requests of other producers, write a file of them.
    """
    batch_id, batch = _read(file, batch_id, since, skip_invalid=skip_invalid)
    schedule, begin = schedule_of(**when), since.isoformat()
    messages = send(batch_id, batch, recover_since=begin, schedule=schedule, quiet=as_json)
    _print_sent(batch_id, batch, messages, as_json=as_json, watching=watching)
    if watching:
        ending = partial(watch_to_the_end, load_settings(), batch_id, as_json=as_json)
        context.exit(asyncio.run(ending(total=len(batch.rows))))


def _read(
    file: str, batch_id: str, since: datetime, *, skip_invalid: bool
) -> tuple[str, BatchFile]:
    """Return the batch that a file contains; refuse what can't be recovered."""
    batch = read_file(file)
    show_problems(batch, skip_invalid=skip_invalid)
    batch_id = batch_id_of(batch, file, batch_id)
    asyncio.run(_check(since))
    return batch_id, batch


def _print_sent(
    batch_id: str, batch: BatchFile, messages: int, *, as_json: bool, watching: bool
) -> None:
    if not as_json:
        click.echo(f"{len(batch.rows):,} imports of batch {batch_id} will be looked up in AWS.")
        if not watching:
            click.echo(f"Follow it: amplify-import watch {batch_id}")
    elif not watching:
        click.echo(json.dumps(sent_as_json(batch_id, batch, messages)))


async def _check(since: datetime) -> None:
    """Refuse a time in the future: every job would be older, and every import would start again.

    Raises:
        click.UsageError: if `since` is later than the store's time.

    """
    async with open_views(load_settings()) as views:
        now = await views.now()
    if since.timestamp() > now:
        raise click.UsageError(
            f"--since {since.isoformat()} is in the future, by the store's clock."
        )
