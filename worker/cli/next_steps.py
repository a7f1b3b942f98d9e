"""`amplify-import next-steps`: what to run for the apps whose user pools were imported."""

import asyncio
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Final

import click

from config.settings import load_settings
from worker.cli.client import not_known_batch, open_views
from worker.cli.report.command import STDOUT, open_output
from worker.domain.imports import Import
from worker.domain.requests import DEFAULT_OPERATION
from worker.domain.states import State

POOLS: Final = ("userPoolId", "webClientId", "nativeClientId", "identityPoolId")

SCRIPT: Final = files("worker.cli").joinpath("next_steps.sh").read_text()
IMPORTS: Final = "# {imports}\n"
"""The place of the imports in the script."""


@click.command()
@click.argument("batch_id", metavar="BATCH")
@click.option(
    "-o",
    "--output",
    default=STDOUT,
    metavar="FILE",
    help="Where to write the script; an existing file is replaced. Default: standard output.",
)
def next_steps(batch_id: str, output: str) -> None:
    """Write a script that prepares the apps of a batch for their next build.

    Amplify Hosting can build an app with an imported user pool only if the branch has the pool's
    ids as environment variables. For each app whose user pool was imported, the script sets them
    and starts a build, with the AWS CLI. This command itself changes nothing.
    """
    count = asyncio.run(_write(batch_id, output))
    if output != STDOUT:
        Path(output).chmod(0o755)
    place = "" if output == STDOUT else f" to {output}"
    click.echo(f"Wrote the next steps of {count:,} app environments{place}.", err=True)


async def _write(batch_id: str, output: str) -> int:
    """Write the script, page by page; return the number of app environments in it."""
    with open_output(output) as write:
        async with open_views(load_settings()) as views:
            if await views.batch(batch_id) is None:
                raise not_known_batch(batch_id)
            head, end = SCRIPT.split(IMPORTS)
            write(head)
            count = 0
            async for page in views.member_pages(batch_id):
                for item in page.items:
                    if has_next_steps(item):
                        write(f"try {_arguments(item)}\n")
                        count += 1
            write(end)
    return count


def has_next_steps(item: Import) -> bool:
    """Return whether the import has put a user pool into its app."""
    is_imported = item.state is State.SUCCEEDED or item.late_outcome == State.SUCCEEDED
    return is_imported and item.requested_operation == DEFAULT_OPERATION


def _arguments(item: Import) -> str:
    ids = [item.members.get(name) or "" for name in POOLS]
    target = [item.app_id, item.backend_environment_name, item.account, item.region]
    return shlex.join([*target, *ids])
