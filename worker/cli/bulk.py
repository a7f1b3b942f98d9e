"""Shared by the commands that change many imports: a confirmation, and a loop with progress."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import click
from rich.progress import Progress

from worker.cli.client import BadInputError, make_console
from worker.cli.progress import is_plain

AT_ONCE: Final = 100
T = TypeVar("T")
R = TypeVar("R")


def confirm(question: str) -> None:
    """Ask the user, and return only if the answer is yes.

    Raises:
        BadInputError: if standard input is not a terminal.
        click.Abort: if the answer is no, or the user interrupts.

    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadInputError(f"{question} Say --yes, or answer at a terminal.")
    # asyncio's handler would only cancel the current task, which is blocked here.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        click.confirm(question, abort=True)
    finally:
        signal.signal(signal.SIGINT, handler)


async def for_each(
    pages: AsyncIterator[Sequence[T]],
    act: Callable[[T], Awaitable[R]],
    *,
    doing: str,
    total: int,
    shown: bool = True,
) -> list[R]:
    """Call `act` for every item, up to `AT_ONCE` at once, and return the results in order.

    Shows the progress as `doing`, out of `total` items, if `shown` is set.
    """
    results: list[R] = []
    console = make_console(stderr=True)
    hidden = not shown or is_plain(console)
    with Progress(console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(doing, total=total)
        async for page in pages:
            for start in range(0, len(page), AT_ONCE):
                some = page[start : start + AT_ONCE]
                results += await asyncio.gather(*map(act, some))
                progress.advance(task, len(some))
    return results
