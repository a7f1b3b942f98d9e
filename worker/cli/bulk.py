"""What commands share that change many imports: asking first, and going through all of them."""

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
    """Ask, and go on only after a yes.

    Raises:
        BadInputError: when there is nobody to ask.

    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadInputError(f"{question} Say --yes, or answer at a terminal.")
    # In an event loop, the first interrupt would only mark the task that waits here as cancelled.
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        click.confirm(question, abort=True)
    finally:
        signal.signal(signal.SIGINT, heeded)


async def for_each(
    pages: AsyncIterator[Sequence[T]],
    act: Callable[[T], Awaitable[R]],
    *,
    doing: str,
    total: int,
) -> list[R]:
    """Act on everything, some at a time, showing progress; return what came of each, in order."""
    results: list[R] = []
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=is_plain(console)) as progress:
        task = progress.add_task(doing, total=total)
        async for page in pages:
            for start in range(0, len(page), AT_ONCE):
                some = page[start : start + AT_ONCE]
                results += await asyncio.gather(*map(act, some))
                progress.advance(task, len(some))
    return results
