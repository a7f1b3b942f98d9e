"""`amplify-import sinks`: what waits for each sink, what it refused, and what to do about it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import click
from redis.asyncio import Redis

from config.settings import load_settings
from worker.cli.client import (
    NotKnownError,
    json_option,
    open_store,
    print_result,
)
from worker.cli.listing import first_of, limit_option, print_listed
from worker.cli.sinklist import (
    as_json,
    as_line,
    as_table,
    parked_as_json,
    parked_as_line,
    parked_as_table,
)
from worker.store.sinkviews import ParkedEvent, SinkControl, read_sinks

T = TypeVar("T")

sink_argument = click.argument("sink")
ids_argument = click.argument("ids", nargs=-1, metavar="[ID]...")
all_option = click.option("--all", "of_all", is_flag=True, help="All parked events of the sink.")


@click.group(invoke_without_command=True)
@click.option("--json", "as_objects", is_flag=True, help="Print each sink as one line of JSON.")
@click.pass_context
def sinks(context: click.Context, *, as_objects: bool) -> None:
    """Show all sinks, or the events that one has refused.

    A sink is a system to which `amplify-import relay` sends events. An event that a sink refuses
    again and again is parked, so that it does not hold up the events behind it.
    """
    if context.invoked_subcommand is None:
        asyncio.run(_show(as_objects=as_objects))
    elif as_objects:
        raise click.UsageError("--json works only without a subcommand.")


@sinks.command()
@sink_argument
@limit_option
@click.option("--json", "as_objects", is_flag=True, help="Print each event as one line of JSON.")
def parked(sink: str, limit: int, *, as_objects: bool) -> None:
    """List the events that a sink has refused, oldest first, with their ids and the reasons."""
    found, are_more = asyncio.run(_on(sink, lambda control: _first(control, sink, limit)))
    print_listed(
        found,
        nothing=f"No events of {sink} are parked.",
        as_json=parked_as_json if as_objects else None,
        as_line=parked_as_line,
        as_table=parked_as_table,
    )
    if are_more:
        click.echo("There are more: repeat the command with a greater --limit", err=True)


@sinks.command()
@sink_argument
@ids_argument
@all_option
@json_option
def resend(sink: str, ids: Sequence[str], *, of_all: bool, as_json: bool) -> None:
    """Send parked events again, by their ids or all of them.

    An event that is refused once more is parked again. It arrives after events of its import that
    were sent meanwhile.
    """
    _check(ids, of_all=of_all)

    async def send(control: SinkControl) -> int:
        chosen = await _chosen(control, sink, ids)
        await control.resend(sink, chosen)
        return len(chosen)

    number = asyncio.run(_on(sink, send))
    text = f"{sink}: {_events(number)} will be sent again"
    print_result(text, {"sink": sink, "resending": number}, as_json=as_json)


@sinks.command()
@sink_argument
@ids_argument
@all_option
@json_option
def drop(sink: str, ids: Sequence[str], *, of_all: bool, as_json: bool) -> None:
    """Forget parked events, by their ids or all of them. The sink never gets them."""
    _check(ids, of_all=of_all)

    async def forget(control: SinkControl) -> int:
        return await control.drop(sink, await _chosen(control, sink, ids))

    number = asyncio.run(_on(sink, forget))
    print_result(
        f"{sink}: {_events(number)} dropped", {"sink": sink, "dropped": number}, as_json=as_json
    )


@sinks.command()
@sink_argument
@json_option
def enable(sink: str, *, as_json: bool) -> None:
    """Send events again to a sink that answered that it wants no more (HTTP 410)."""
    was_disabled = asyncio.run(_on(sink, lambda control: control.enable(sink)))
    text = f"{sink} is enabled" if was_disabled else f"{sink} was not disabled"
    print_result(text, {"sink": sink, "changed": was_disabled}, as_json=as_json)


@sinks.command()
@sink_argument
@json_option
def forget(sink: str, *, as_json: bool) -> None:
    """Remove a sink that is no longer in the sinks file, and its parked events.

    A sink that is still in the file begins anew.
    """
    asyncio.run(_on(sink, lambda control: control.forget(sink)))
    print_result(f"{sink} is removed", {"sink": sink, "removed": True}, as_json=as_json)


async def _show(*, as_objects: bool) -> None:
    async with open_store(load_settings()) as redis:
        found = await read_sinks(redis)
    print_listed(
        found,
        nothing="No relay has served a sink yet. See docs/guides/sinks.md",
        as_json=as_json if as_objects else None,
        as_line=as_line,
        as_table=as_table,
    )


async def _on(sink: str, act: Callable[[SinkControl], Awaitable[T]]) -> T:
    async with open_store(load_settings()) as redis:
        await _check_known(redis, sink)
        return await act(SinkControl(redis))


async def _check_known(redis: "Redis", sink: str) -> None:
    known = [each.name for each in await read_sinks(redis)]
    if sink not in known:
        names = ", ".join(known) or "none"
        raise NotKnownError(f"No relay has served a sink {sink}; those that it knows: {names}")


def _check(ids: Sequence[str], *, of_all: bool) -> None:
    if bool(ids) == of_all:
        raise click.UsageError("Give the ids of parked events, or --all.")


async def _chosen(control: SinkControl, sink: str, ids: Sequence[str]) -> list[str]:
    """Return these ids; without any, those of all parked events."""
    parked_ids = [each.id async for each in control.parked(sink)]
    if unknown := sorted(set(ids) - set(parked_ids)):
        raise NotKnownError(f"{sink} has no parked event {', '.join(unknown)}")
    return list(ids) or parked_ids


async def _first(control: SinkControl, sink: str, limit: int) -> tuple[Sequence[ParkedEvent], bool]:
    return await first_of(control.parked(sink), limit)


def _events(number: int) -> str:
    return "1 event" if number == 1 else f"{number:,} events"
