"""`amplify-import imports`: finds imports by state, lane, batch, target and age."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
from redis.asyncio import Redis
from rich.progress import Progress
from rich.table import Table

from config.settings import load_settings
from config.text import shown_on_one_line
from worker.cli.client import NotKnownError, make_console, not_known_batch, open_store
from worker.cli.lanelist import span
from worker.cli.listing import (
    Duration,
    cell,
    first_of,
    limit_option,
    make_table,
    print_listed,
    print_more,
)
from worker.cli.progress import is_plain
from worker.cli.status import import_as_json
from worker.cli.summary import STYLE
from worker.cli.waiting import what_it_waits_for
from worker.domain.imports import Import
from worker.domain.states import UNFINISHED, State
from worker.store.importlist import Criteria, find_imports
from worker.store.views import ImportViews


class States(click.ParamType[frozenset[State]]):
    """States of imports, separated by commas."""

    name = "STATES"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[State]:
        """Return the states; if one is unknown, fail with a message that lists all states."""
        if isinstance(value, frozenset):
            return value
        try:
            return frozenset(State(name.strip()) for name in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} must be states such as {', '.join(State)}", param, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImport:
    """An import, its age in seconds, and what it waits for; None if it has ended."""

    item: Import
    age: float
    waits_for: str | None

    @property
    def reason(self) -> str:
        """What the import waits for, or the error with which it ended."""
        return self.waits_for or self.item.error or "-"


def selection(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose imports."""
    options = (
        click.option(
            "--state",
            "states",
            type=States(),
            default=UNFINISHED,
            help="Only these, such as waiting,running. Default: imports that have not ended.",
        ),
        click.option("--lane", default="", metavar="LANE", help="Only this lane: account/region."),
        click.option("--batch", "batch_id", default="", metavar="BATCH", help="Only this batch."),
        click.option("--target", default="", metavar="APP[/ENV]", help="Only this app."),
        click.option(
            "--older-than",
            type=Duration(),
            default="0s",
            metavar="DURATION",
            help="Only imports that were admitted at least so long ago, such as 2h.",
        ),
        click.option("--undecided", is_flag=True, help="Only imports that wait for your decision."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@selection
@limit_option
@click.option("--after", default="", metavar="IMPORT", help="List the imports behind this one.")
@click.option("--json", "as_objects", is_flag=True, help="Print each import as one line of JSON.")
def imports(
    *, target: str, older_than: float, limit: int, after: str, as_objects: bool, **chosen: Any
) -> None:
    """Find imports without knowing their ids. They are listed in the order of their ids.

    Without --batch, imports that have ended are found only by reading every record in the store.
    """
    app_id, _, environment = target.partition("/")
    criteria = Criteria(app_id=app_id, environment=environment, **chosen)
    if criteria.undecided:
        criteria = replace(criteria, states=criteria.states & UNFINISHED)
    asyncio.run(_list(criteria, older_than, after, limit, as_objects=as_objects))


async def _list(
    criteria: Criteria, older_than: float, after: str, limit: int, *, as_objects: bool
) -> None:
    async with open_store(load_settings()) as redis:
        await _check(ImportViews(redis), criteria)
        found, more = await _find(redis, criteria, older_than, after, limit)
    print_listed(
        found,
        nothing="There are no such imports.",
        as_json=_as_json if as_objects else None,
        as_line=_as_line,
        as_table=_as_table,
    )
    if more:
        print_more(found[-1].item.id)


async def _check(views: ImportViews, criteria: Criteria) -> None:
    """Warn of a search that reads all records.

    Raises:
        NotKnownError: if there is no such batch or lane.

    """
    if criteria.batch_id and await views.batch(criteria.batch_id) is None:
        raise not_known_batch(criteria.batch_id)
    if criteria.lane and await views.lane(criteria.lane) is None:
        raise NotKnownError(f"There is no lane {criteria.lane} in this store.")
    if criteria.needs_scan:
        click.echo(
            "No index lists imports that have ended: this reads every record in the store. With "
            "--batch, it reads only those of a batch.",
            err=True,
        )


async def _find(
    redis: "Redis", criteria: Criteria, older_than: float, after: str, limit: int
) -> tuple[list[ListedImport], bool]:
    views = ImportViews(redis)
    now_ms = await views.now() * 1000
    if older_than:
        criteria = replace(criteria, accepted_by_ms=int(now_ms - older_than * 1000))
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=is_plain(console)) as progress:
        task = progress.add_task("reading", total=None)
        imports_found = find_imports(
            redis,
            criteria,
            after,
            lambda number: progress.update(task, description=f"{number:,} ids read"),
        )
        found, more = await first_of(imports_found, limit)
    return [await _listed(views, item, now_ms) for item in found], more


async def _listed(views: ImportViews, item: Import, now_ms: float) -> ListedImport:
    where = None if item.is_terminal else await views.whereabouts(item)
    return ListedImport(
        item=item,
        age=max(0.0, (now_ms - item.accepted_at_ms) / 1000),
        waits_for=what_it_waits_for(item, where) if where else None,
    )


def _as_json(listed: ListedImport) -> dict[str, Any]:
    return {
        **import_as_json(listed.item, listed.waits_for),
        "undecided": bool(listed.item.undecided),
    }


def _as_line(listed: ListedImport) -> str:
    item = listed.item
    batch = f", batch {item.batch_id}" if item.batch_id else ""
    where = f"{item.target}, lane {item.lane}{batch}, {span(listed.age)} old"
    return shown_on_one_line(f"{item.id}: {item.state}; {where}; {listed.reason}")


def _as_table(found: Sequence[ListedImport]) -> Table:
    table = make_table(("import", "state", "target", "lane", "batch", "reason"), ("age",))
    for each in found:
        item = each.item
        table.add_row(
            cell(item.id),
            span(each.age),
            cell(item.state, STYLE[item.state]),
            cell(item.target),
            cell(item.lane),
            cell(item.batch_id or "-"),
            cell(each.reason),
        )
    return table
