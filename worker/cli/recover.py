"""`amplify-import recover`: rebuilds a batch whose store was lost, from its file and from AWS."""

import asyncio
from datetime import UTC, datetime
from typing import Final

import click

from config.settings import load_settings
from worker.cli.client import open_store
from worker.cli.submit import batch_id_of, read_file, send, show_problems
from worker.cli.watch import watch_to_the_end

EXAMPLE: Final = """\b
Example:
  amplify-import recover apps.csv --since 2026-11-24T08:00 --watch
"""


class Moment(click.ParamType[datetime]):
    """A time in ISO 8601, UTC unless it says."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read the time; fail with what it should look like."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-11-24T08:00 (UTC)", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command(epilog=EXAMPLE)
@click.argument(
    "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option(
    "--since",
    required=True,
    type=Moment(),
    help="When the batch was first submitted, by AWS's clock, in UTC unless it says: the jobs of"
    " its targets that are older are not taken for its own.",
)
@click.option("--batch-id", default="", help="Default: the file's name and a digest of it.")
@click.option("--skip-invalid", is_flag=True, help="Recover the good rows of a file with bad ones.")
@click.option("--watch", "watching", is_flag=True, help="Follow the batch until all is over.")
@click.pass_context
def recover(
    context: click.Context,
    file: str,
    since: datetime,
    batch_id: str,
    *,
    skip_invalid: bool,
    watching: bool,
) -> None:
    """Rebuild a batch whose store was lost, and go on with it.

    Give the same file (and --batch-id) as to submit, and when that was. Workers ask AWS for the
    jobs of every target before anything else: a job that was started since then is followed to its
    end; only where there is none, the import is started. To recover again is harmless. What other
    producers had enqueued can be recovered as well, from a file of it.
    """
    settings = load_settings()
    batch = read_file(file)
    show_problems(batch, skip_invalid=skip_invalid)
    batch_id = batch_id_of(batch, file, batch_id)
    asyncio.run(_check(since))
    send(batch_id, batch, recover_since=since.isoformat())
    click.echo(f"{len(batch.rows):,} imports of batch {batch_id} are looked for at AWS.")
    if watching:
        ending = watch_to_the_end(settings, batch_id, as_json=False, total=len(batch.rows))
        context.exit(asyncio.run(ending))
    click.echo(f"Follow it: amplify-import watch {batch_id}")


async def _check(since: datetime) -> None:
    """Refuse a time to come: every job would be older than that, and started again."""
    async with open_store(load_settings()) as redis:
        seconds, microseconds = await redis.time()
    if since.timestamp() > seconds + microseconds / 1e6:
        raise click.UsageError(f"--since {since.isoformat()} is yet to come, by the store's clock.")
