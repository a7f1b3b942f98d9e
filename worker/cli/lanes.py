"""`amplify-import lanes`: how the lanes stand, and what a person may do to one."""

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
    make_console,
    open_store,
    open_views,
)
from worker.cli.factlist import facts_as_json, facts_as_text
from worker.cli.lanelist import as_json, as_line, as_table
from worker.cli.progress import is_plain
from worker.domain.outcomes import LaneLimits
from worker.runtime import limits_of, store_config
from worker.store.lanes import LaneControl
from worker.store.views import ImportViews


def _check_name(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    if not LANE_NAME.fullmatch(value):
        raise click.BadParameter(f'"{value}" is no lane; one is named account/region')
    return value


lane_argument = click.argument("lane", callback=_check_name)


@click.group(invoke_without_command=True)
@click.option("--json", "as_objects", is_flag=True, help="Print each lane as one line of JSON.")
@click.option("--facts", is_flag=True, help="Show what each lane has learned about AWS's jobs.")
@click.pass_context
def lanes(context: click.Context, *, as_objects: bool, facts: bool) -> None:
    """Show every lane, or pause one, resume it, or set its limits.

    A lane is what one AWS limit covers, named account/region.
    """
    if context.invoked_subcommand is None:
        asyncio.run(_show(load_settings(), as_objects=as_objects, facts=facts))
    elif as_objects or facts:
        option = "--json" if as_objects else "--facts"
        raise click.UsageError(f"{option} is for the list of lanes alone.")


@lanes.command()
@lane_argument
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who wonder.")
def pause(lane: str, reason: str) -> None:
    """Pause a lane: no worker makes a call for it until you resume it.

    Calls that are on the way are finished; imports keep waiting, and deadlines keep running.
    """
    asyncio.run(_pause(load_settings(), lane, reason.strip() or DEFAULT_REASON))


@lanes.command()
@lane_argument
def resume(lane: str) -> None:
    """Resume a lane, whether you paused it or it paused itself."""
    asyncio.run(_resume(load_settings(), lane))


@lanes.command("set-rate")
@lane_argument
@click.option("--start", "start_rate", type=float, metavar="RATE", help="Starts per second.")
@click.option("--start-burst", type=float, metavar="N", help="Starts at once.")
@click.option("--poll", "poll_rate", type=float, metavar="RATE", help="Polls per second.")
@click.option("--poll-burst", type=float, metavar="N", help="Polls at once.")
@click.option("--shared", "shared_rate", type=float, metavar="RATE", help="Both, of one budget.")
@click.option("--shared-burst", type=float, metavar="N", help="Both at once.")
@click.option("--start-share", type=float, metavar="SHARE", help="Of it, kept for starts: 0 to 1.")
@click.option("--max-running", type=int, metavar="N", help="Unfinished jobs at once.")
def set_rate(lane: str, **limits: float | None) -> None:
    """Set limits of a lane for all workers, also before it is first used.

    They hold, whatever is configured, until you `reset` the lane. A rate that AWS does not allow
    after all is lowered by what AWS answers.
    """
    given = _limits_of(limits)
    asyncio.run(_set_limits(load_settings(), lane, given))
    what = ", ".join(f"{name} {value:g}" for name, value in limits.items() if value is not None)
    click.echo(f"Lane {lane}: {what}, from now on; amplify-import lanes reset {lane} ends that.")


@lanes.command()
@lane_argument
def reset(lane: str) -> None:
    """Forget the limits of a lane that were set by hand, and all that was learned.

    What is configured holds again; the rest is learned anew. Do this when AWS has raised a quota
    and you do not want to wait until that is noticed.
    """
    asyncio.run(_reset(load_settings(), lane))


def _who() -> str:
    """Return who asks, as far as this machine knows: whoever wonders about a limit can ask back."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container whose user has no name
        return socket.gethostname()


def _limits_of(limits: dict[str, float | None]) -> LaneLimits:
    """Judge limits as those of the lanes file are judged."""
    if all(value is None for value in limits.values()):
        raise click.UsageError("Say which limit to set; --help lists them.")
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
        click.echo("No lanes: nothing was imported or configured here yet.")
    elif facts:
        click.echo("\n".join(map(facts_as_text, found)))
    elif is_plain(console):
        for lane in found:
            click.echo(as_line(lane))
    else:
        console.print(as_table(found))


async def _pause(settings: Settings, lane: str, reason: str) -> None:
    async with _open_lane(settings, lane) as control:
        fresh = await control.hold(lane, reason)
    click.echo(
        f"Lane {lane} {'is' if fresh else 'was paused already; it stays'} paused until you "
        f"resume it: amplify-import lanes resume {lane}"
    )


async def _resume(settings: Settings, lane: str) -> None:
    async with _open_lane(settings, lane) as control:
        resumed = await control.resume(lane)
    click.echo(f"Lane {lane} {'goes on' if resumed else 'was not paused'}.")


async def _reset(settings: Settings, lane: str) -> None:
    async with _open_lane(settings, lane) as control:
        await control.reset(lane)
    click.echo(f"Lane {lane}: what is configured holds again, the rest is learned anew.")


async def _set_limits(settings: Settings, lane: str, limits: LaneLimits) -> None:
    async with open_store(settings) as redis:
        control = LaneControl(redis, store_config(settings))
        await control.set_limits(lane, limits, by=_who())


@asynccontextmanager
async def _open_lane(settings: Settings, lane: str) -> AsyncIterator[LaneControl]:
    """Open the control of a lane; raises NotKnownError when it was never used or configured."""
    async with open_store(settings) as redis:
        if await ImportViews(redis).lane(lane) is None:
            raise NotKnownError(f"No lane {lane} is known here; `amplify-import lanes` lists them.")
        yield LaneControl(redis, store_config(settings))
