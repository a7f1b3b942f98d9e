"""`amplify-import events`: prints the event stream."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing

import click
from redis.exceptions import RedisError

from config.settings import load_settings
from worker.cli.client import heed_interrupt, message_of, not_known_batch, open_views
from worker.domain.events import EventType
from worker.domain.states import State
from worker.store.views import Event, ImportViews

LAST_EVENTS = 20
BLOCK_MS = 1000
NEWEST = "$"
OUTAGE_SECONDS = 1.0


def _check_place(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | None:
    if value is None or value == NEWEST or re.fullmatch(r"\d{1,20}(-\d{1,20})?", value):
        return value
    raise click.BadParameter("must be the id of an entry like 1712345678901-0, 0 or $")


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Keep waiting for new events until interrupted.")
@click.option(
    "--from",
    "place",
    metavar="ID|0|$",
    callback=_check_place,
    help="Start after this entry, at the oldest one (0), or now ($)."
    f" Default: the last {LAST_EVENTS}.",
)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    type=click.Choice([str(name) for name in EventType]),
    help="Only this type, such as import.failed. Can be repeated.",
)
@click.option("--batch", "batch_id", default="", metavar="BATCH", help="Only this batch.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
def events(
    place: str | None, types: Collection[str], batch_id: str, *, follow: bool, as_json: bool
) -> None:
    """Print events: what happened to imports, batches and lanes.

    Exits with 4 if the batch is unknown and has no events.
    """

    def wanted(event: Event) -> bool:
        return (not types or event["type"] in types) and (
            not batch_id or event["data"].get("batchId") == batch_id
        )

    render = json.dumps if as_json else _line
    asyncio.run(_print(place, wanted, render, batch_id, follow=follow))


async def _print(
    place: str | None,
    wanted: Callable[[Event], bool],
    render: Callable[[Event], str],
    batch_id: str,
    *,
    follow: bool,
) -> None:
    printed = 0
    async with open_views(load_settings()) as views:
        async with aclosing(_events(views, place, wanted, follow=follow)) as stream:
            async for event in stream:
                click.echo(render(event))
                printed += 1
        if batch_id and not printed and await views.batch(batch_id) is None:
            raise not_known_batch(batch_id)


async def _events(
    views: ImportViews, place: str | None, wanted: Callable[[Event], bool], *, follow: bool
) -> AsyncGenerator[Event, None]:
    """Yield the wanted events after the entry `place`; if it is None, the last few."""
    after = await views.newest_event_id()
    if place is None:
        for event in await _last(views, after, wanted):
            yield event
    elif place != NEWEST:
        after = place
    async with aclosing(_events_after(views, after, follow=follow)) as stream:
        async for event in stream:
            if wanted(event):
                yield event


async def _last(views: ImportViews, newest: str, wanted: Callable[[Event], bool]) -> list[Event]:
    """Return the last wanted events, up to the entry `newest`, oldest first."""
    found: list[Event] = []
    async with aclosing(views.events_backwards(newest)) as stream:
        async for event in stream:
            if wanted(event):
                found.append(event)
            if len(found) == LAST_EVENTS:
                break
    return found[::-1]


async def _events_after(
    views: ImportViews, after: str, *, follow: bool
) -> AsyncGenerator[Event, None]:
    """Yield the events after an entry. With `follow`, wait for more forever, even during outages.

    Raises:
        RedisError: if the store can't be reached, unless `follow` is set.

    """
    while True:
        heed_interrupt()
        try:
            entries = await views.events(after, block_ms=BLOCK_MS if follow else None)
        except RedisError as error:
            if not follow:
                raise
            click.echo(f"The store {message_of(error)}; still trying.", err=True)
            await asyncio.sleep(OUTAGE_SECONDS)
            continue
        for entry_id, event in entries:
            yield event
            after = entry_id
        if not entries and not follow:
            return


def _line(event: Event) -> str:
    """Return an event as one line: time, type, subject, job, error, and the counts of a batch."""
    data = event["data"]
    parts = [event["time"], f"{event['type']:16}", event["subject"]]
    if data.get("jobId"):
        parts.append(f"job {data['jobId']}")
    if reason := data.get("error") or data.get("reason"):
        parts.append(reason)
    if event["type"] == EventType.BATCH_COMPLETED:
        parts.append(", ".join(f"{state} {data[state]}" for state in State if data.get(state)))
    return "  ".join(parts)
