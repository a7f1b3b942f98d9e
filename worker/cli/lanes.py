"""`amplify-import lanes`: shows the lanes, and pauses, resumes, limits or resets one."""

import asyncio
import getpass
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from pydantic import ValidationError

from config.settings import LANE_NAME, LaneSettings, Settings, load_settings
from worker.cli.client import (
    DEFAULT_REASON,
    BadInputError,
    NotKnownError,
    json_option,
    make_console,
    open_store,
    open_views,
    print_result,
)
from worker.cli.factlist import facts_as_json, facts_as_text
from worker.cli.lanelist import as_json, as_line, as_table
from worker.cli.progress import is_plain
from worker.domain.outcomes import LaneLimits
from worker.parameters import limits_of, store_config
from worker.store.control import LaneControl
from worker.store.views import ImportViews


def _check_name(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    if not LANE_NAME.fullmatch(value):
        raise click.BadParameter(f'"{value}" is not a lane name; it must look like account/region')
    return value


lane_argument = click.argument("lane", callback=_check_name)


@click.group(invoke_without_command=True)
@click.option("--json", "as_objects", is_flag=True, help="Print each lane as one line of JSON.")
@click.option("--facts", is_flag=True, help="Show what each lane has learned about AWS's jobs.")
@click.pass_context
def lanes(context: click.Context, *, as_objects: bool, facts: bool) -> None:
    """Show all lanes, or pause, resume or limit one.

    A lane is the scope of one AWS rate limit: an account and a region, named account/region.
    """
    if context.invoked_subcommand is None:
        asyncio.run(_show(load_settings(), as_objects=as_objects, facts=facts))
    elif as_objects or facts:
        option = "--json" if as_objects else "--facts"
        raise click.UsageError(f"{option} works only without a subcommand.")


@lanes.command()
@lane_argument
@click.option(
    "--reason", default="", metavar="TEXT", help="The reason, shown by status and explain."
)
@json_option
def pause(lane: str, reason: str, *, as_json: bool) -> None:
    """Pause a lane: no worker makes a call for it until you resume it.

    Calls in progress are completed. Imports keep waiting, and deadlines keep running.
    """
    reason = reason.strip() or DEFAULT_REASON
    asyncio.run(_pause(load_settings(), lane, reason, as_json=as_json))


@lanes.command()
@lane_argument
@json_option
def resume(lane: str, *, as_json: bool) -> None:
    """Resume a lane, whether it was paused by an operator or automatically."""
    asyncio.run(_resume(load_settings(), lane, as_json=as_json))


@lanes.command("set-rate")
@lane_argument
@click.option("--start", "start_rate", type=float, metavar="RATE", help="Starts per second.")
@click.option("--start-burst", type=float, metavar="N", help="Starts at once.")
@click.option("--poll", "poll_rate", type=float, metavar="RATE", help="Polls per second.")
@click.option("--poll-burst", type=float, metavar="N", help="Polls at once.")
@click.option(
    "--shared",
    "shared_rate",
    type=float,
    metavar="RATE",
    help="Starts and polls per second, if AWS counts them together.",
)
@click.option(
    "--shared-burst",
    type=float,
    metavar="N",
    help="Starts and polls at once, if AWS counts them together.",
)
@click.option(
    "--start-share",
    type=float,
    metavar="SHARE",
    help="The part of the shared limit for starts: 0.05 to 0.95.",
)
@click.option("--max-running", type=int, metavar="N", help="Unfinished jobs at once.")
@json_option
def set_rate(lane: str, *, as_json: bool, **limits: float | None) -> None:
    """Set limits of a lane for all workers, also before it is first used.

    They override the configuration until you `reset` the lane. If AWS allows less, the lane follows
    AWS.
    """
    given = _limits_of(limits)
    asyncio.run(_set_limits(load_settings(), lane, given))
    _print_limits(lane, limits, as_json=as_json)


@lanes.command()
@lane_argument
@json_option
def reset(lane: str, *, as_json: bool) -> None:
    """Forget the limits set with set-rate, and all that a lane has learned.

    That includes the facts that `lanes --facts` shows. Configured limits apply again; the others
    are learned anew. Use it when AWS has raised a quota
    and you do not want to wait until the lane notices.
    """
    asyncio.run(_reset(load_settings(), lane))
    print_result(
        f"Lane {lane}: configured limits apply again; the others are learned anew.",
        {"lane": lane, "reset": True},
        as_json=as_json,
    )


def _print_limits(lane: str, limits: dict[str, float | None], *, as_json: bool) -> None:
    what = {name: value for name, value in limits.items() if value is not None}
    print_result(
        f"Lane {lane}: {', '.join(f'{name} {value:g}' for name, value in what.items())}, from now"
        f" on; to undo: amplify-import lanes reset {lane}",
        {"lane": lane, "limits": {_camel_case(name): value for name, value in what.items()}},
        as_json=as_json,
    )


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _who() -> str:
    """Return user@host of the operator, so that others can see who has set a limit."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # in a container, the user may have no name
        return socket.gethostname()


def _limits_of(limits: dict[str, float | None]) -> LaneLimits:
    """Return valid limits. The rules are those of the lanes file.

    Raises:
        click.UsageError: if no limit is given.
        BadInputError: if a limit is invalid.

    """
    if all(value is None for value in limits.values()):
        raise click.UsageError("No limit given. Use at least one of the options that --help lists.")
    shared = any(limits[name] for name in ("shared_rate", "shared_burst", "start_share")) or None
    try:
        return limits_of(LaneSettings.model_validate({**limits, "shared": shared}))
    except ValidationError as error:
        problems = (f"{detail['loc'][0]}: {detail['msg']}" for detail in error.errors())
        raise BadInputError("; ".join(problems)) from None


async def _show(settings: Settings, *, as_objects: bool, facts: bool) -> None:
    async with open_views(settings) as views:
        found = await views.lanes()
    console = make_console()
    if as_objects:
        for lane in found:
            more = {"facts": facts_as_json(lane.facts)} if facts else {}
            click.echo(json.dumps(as_json(lane) | more))
    elif not found:
        click.echo("There are no lanes yet: nothing has been imported or configured.")
    elif facts:
        click.echo("\n".join(map(facts_as_text, found)))
    elif is_plain(console):
        for lane in found:
            click.echo(as_line(lane))
    else:
        console.print(as_table(found))


async def _pause(settings: Settings, lane: str, reason: str, *, as_json: bool) -> None:
    async with _open_lane(settings, lane) as control:
        fresh = await control.pause(lane, reason)
    print_result(
        f"Lane {lane} {'is' if fresh else 'was already paused; it stays'} paused until you "
        f"resume it: amplify-import lanes resume {lane}",
        {"lane": lane, "paused": True, "changed": fresh},
        as_json=as_json,
    )


async def _resume(settings: Settings, lane: str, *, as_json: bool) -> None:
    async with _open_lane(settings, lane) as control:
        resumed = await control.resume(lane)
    print_result(
        f"Lane {lane} {'is resumed' if resumed else 'was not paused'}.",
        {"lane": lane, "paused": False, "changed": resumed},
        as_json=as_json,
    )


async def _reset(settings: Settings, lane: str) -> None:
    async with _open_lane(settings, lane) as control:
        await control.reset(lane)


async def _set_limits(settings: Settings, lane: str, limits: LaneLimits) -> None:
    async with open_store(settings) as redis:
        control = LaneControl(redis, store_config(settings))
        await control.set_limits(lane, limits, by=_who())


@asynccontextmanager
async def _open_lane(settings: Settings, lane: str) -> AsyncIterator[LaneControl]:
    """Yield the control of a lane; close the store at the end.

    Raises:
        NotKnownError: if the lane was never used and never configured.

    """
    async with open_store(settings) as redis:
        if await ImportViews(redis).lane(lane) is None:
            raise NotKnownError(
                f"There is no lane {lane} in this store; `amplify-import lanes` lists all lanes."
            )
        yield LaneControl(redis, store_config(settings))
