"""Shared by the commands that list things: durations, pages, and tables for wide terminals."""

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.text import shown_on_one_line
from worker.cli.client import make_console
from worker.cli.progress import is_plain

SHOWN: Final = 50
"""How many things a command lists without --limit."""

NARROWEST_TABLE: Final = 110
"""Columns. On a narrower terminal, each thing is a line of text, which wraps."""

_UNITS: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d{1,9})(s|min|m|h|d)", re.ASCII)

T = TypeVar("T")


class Duration(click.ParamType[float]):
    """A number and a unit, such as 90s, 30min, 2h or 7d. The value is in seconds."""

    name = "DURATION"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds; if the text is invalid, fail with a message that shows the format."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration; it must look like 90s, 30min, 2h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=SHOWN,
    metavar="N",
    help=f"List at most N. Default: {SHOWN}.",
)


async def first_of(items: AsyncGenerator[T, None], limit: int) -> tuple[list[T], bool]:
    """Return the first `limit` items, and whether there are more."""
    found: list[T] = []
    async with aclosing(items) as stream:
        async for item in stream:
            if len(found) == limit:
                return found, True
            found.append(item)
    return found, False


def is_for_lines(console: Console) -> bool:
    """Return whether the output has no room for a table, or is no terminal."""
    return is_plain(console) or console.width < NARROWEST_TABLE


def make_table(texts: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """Return an empty table: the first column of text, the numbers, the other columns of text."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(texts[0], overflow="fold", min_width=15)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in texts[1:]:
        table.add_column(name, overflow="fold", min_width=8)
    return table


def cell(text: str, style: str = "") -> Text:
    """Return foreign text for a table."""
    return Text(shown_on_one_line(text), style=style)


def print_listed(
    found: Sequence[T],
    *,
    nothing: str,
    as_json: Callable[[T], Mapping[str, Any]] | None,
    as_line: Callable[[T], str],
    as_table: Callable[[Sequence[T]], Table],
) -> None:
    """Print things as JSON lines if `as_json` is given, else as lines or a table; or `nothing`."""
    console = make_console()
    if as_json:
        for each in found:
            click.echo(json.dumps(as_json(each)))
    elif not found:
        click.echo(nothing)
    elif is_for_lines(console):
        for each in found:
            click.echo(as_line(each))
    else:
        console.print(as_table(found))


def print_more(last: str) -> None:
    """Say on standard error how to list what follows the thing named `last`."""
    click.echo(
        f"There are more: repeat the command with --after {shown_on_one_line(last)}", err=True
    )
