"""The command `amplify-import plan`."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import Progress, TaskID

from worker.cli.batchtext import BatchFileError
from worker.cli.client import BadInputError, make_console
from worker.cli.plan.listing import LEFT_OUT, Listing, Place, list_environments
from worker.cli.plan.pools import PoolMap, read_pool_map
from worker.cli.progress import is_plain
from worker.cli.report.command import STDOUT, open_output
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.aws import Aws
from worker.operations.inventory import Auth

PROBLEMS_SHOWN: Final = 20


def _repeated(name: str, variable: str, help_: str, **more: Any) -> Callable[..., Any]:
    """Return an option that can be repeated."""
    return click.option(
        name, variable, multiple=True, metavar=name.strip("-").upper(), help=help_, **more
    )


@click.command()
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Where to write the batch file (CSV). `-` is standard output.",
)
@_repeated(
    "--account",
    "accounts",
    "An AWS profile. Can be repeated. Default: the ambient credentials.",
    default=(DEFAULT_ACCOUNT,),
)
@_repeated("--region", "regions", "An AWS region. Can be repeated. Default: that of each account.")
@click.option(
    "--pools",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A CSV file that says which user pool each app gets.",
)
@click.option("--all", "all_", is_flag=True, help="Also list those that have authentication.")
@click.option("--replace", is_flag=True, help="Replace the file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; the rest on stderr.")
@click.pass_context
def plan(context: click.Context, /, **options: Any) -> None:
    """List the app environments of AWS accounts as a batch file, whose user pools you fill in.

    Environments that have authentication already are left out. --pools fills in user pools: its
    columns appId, appName, backendEnvironmentName, account and region hold patterns such as shop-*,
    and the first line that fits an environment applies. An earlier file of `plan` works, too.

    It only reads from AWS. Exits with 1 if a call failed or a value of --pools is invalid.
    """
    context.exit(_plan(Options(**options)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `plan`."""

    output: str
    accounts: Sequence[str]
    regions: Sequence[str]
    pools: str | None
    all_: bool
    replace: bool
    as_json: bool


def _plan(options: Options) -> int:
    output = options.output
    _check(output, replace=options.replace, as_json=options.as_json)
    pool_map = _pool_map(options.pools)
    places = list(_places(options.accounts, options.regions))
    with _progress() as advance:
        listing = asyncio.run(list_environments(places, advance, everything=options.all_))
    listing.fill_in(pool_map)
    with open_output(output) as write:
        write(listing.as_csv())
    problems = [*listing.problems, *listing.invalid()]
    _say(listing, problems, pool_map)
    if output != STDOUT:
        click.echo(f"Wrote {output}.", err=True)
    if options.as_json:
        click.echo(json.dumps(_members(listing, problems, pool_map)))
    return 1 if problems else 0


def _check(output: str, *, replace: bool, as_json: bool) -> None:
    if output == STDOUT and as_json:
        raise click.UsageError("--json prints on standard output; choose another --output.")
    if output != STDOUT and Path(output).exists() and not replace:
        raise BadInputError(
            f"{output} exists, and somebody may have filled in its pools. Choose another file (with"
            f" --pools {output}, it takes over the pools), or --replace it."
        )


def _pool_map(path: str | None) -> PoolMap:
    if path is None:
        return PoolMap()
    try:
        return read_pool_map(path)
    except BatchFileError as error:
        raise BadInputError(f"{path}: {error}") from error


def _places(accounts: Sequence[str], regions: Sequence[str]) -> Iterator[Place]:
    """Yield each account with each region.

    Raises:
        BadInputError: if no region is given, and an account has none.

    """
    aws = Aws(timeout_seconds=1.0, max_connections=1)
    for account in dict.fromkeys(accounts):
        for region in dict.fromkeys(regions or (aws.region_of(account),)):
            if not region:
                raise BadInputError(f"No region for account {account}: give --region.")
            yield account, region


@contextmanager
def _progress() -> Iterator[Callable[[Place], None]]:
    """Show on a terminal how many apps were listed; yield the function that adds one."""
    console = make_console(stderr=True)
    tasks: dict[Place, TaskID] = {}
    with Progress(
        "{task.description}: {task.completed:,.0f} apps",
        console=console,
        transient=True,
        disable=is_plain(console),
    ) as progress:

        def advance(place: Place) -> None:
            if place not in tasks:
                tasks[place] = progress.add_task("/".join(place), total=None)
            progress.advance(tasks[place])

        yield advance


def _say(listing: Listing, problems: Sequence[str], pool_map: PoolMap) -> None:
    """Say on stderr what was found, and what is missing."""
    for problem in problems[:PROBLEMS_SHOWN]:
        click.echo(problem, err=True)
    if (more := len(problems) - PROBLEMS_SHOWN) > 0:
        click.echo(f"... and {more:,} more problems", err=True)
    if pool_map.unused:
        lines = ", ".join(map(str, pool_map.unused[:PROBLEMS_SHOWN]))
        click.echo(f"These lines of --pools fit no environment: {lines}.", err=True)
    click.echo(
        f"{listing.environments:,} environments of {listing.apps:,} apps:"
        f" {len(listing.rows):,} rows, {listing.incomplete:,} of them without a complete pool.",
        err=True,
    )
    if listing.left_out:
        counts = ", ".join(f"{listing.by_auth[auth]:,} {auth}" for auth in sorted(LEFT_OUT))
        click.echo(
            f"{listing.left_out:,} were left out, because they have authentication ({counts}).",
            err=True,
        )


def _members(listing: Listing, problems: Sequence[str], pool_map: PoolMap) -> dict[str, Any]:
    return {
        "apps": listing.apps,
        "environments": listing.environments,
        "authentication": {str(auth): listing.by_auth[auth] for auth in Auth},
        "rows": len(listing.rows),
        "incompleteRows": listing.incomplete,
        "unusedPoolLines": pool_map.unused,
        "problems": list(problems),
    }
