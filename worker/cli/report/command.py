"""`amplify-import report`: writes a report about a batch, or its results."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.progress import Progress

from config.settings import load_settings
from worker.cli.client import FailedHereError, make_console, not_known_batch, open_views
from worker.cli.progress import is_plain
from worker.cli.report.gather import gather
from worker.cli.report.page import page
from worker.cli.report.results import WRITERS, Results
from worker.store.batchview import BatchCounts
from worker.store.views import ImportViews

HTML: Final = "html"
STDOUT: Final = "-"
FORMATS: Final = (HTML, *WRITERS)
_OF_SUFFIX: Final = {".htm": HTML, **{f".{name}": name for name in FORMATS}}

Write = Callable[[str], object]


@click.command()
@click.argument("batch_id", metavar="BATCH")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Where to write it: .html, .csv or .json. An existing file is replaced. `-` is standard"
    " output.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="What to write. Default: what the suffix of FILE says; html for `-`.",
)
def report(batch_id: str, output: str, format_: str | None) -> None:
    """Write a report about a batch: one HTML page, or its results as CSV or JSON.

    The page needs no other file, so it can be kept or sent. It shows outcomes, reasons and next
    steps, times, and the use of the lanes' quotas. While the batch is under way, it says what is
    missing. CSV and JSON hold one row or object for each import.

    Exits with 0 if the report was written, whatever became of the imports.
    """
    chosen = format_ or _format_of(output)
    left = asyncio.run(_report(batch_id, output, chosen))
    if left:
        click.echo(
            f"Batch {batch_id} has not ended: {left:,} imports are missing or incomplete.", err=True
        )
    if output != STDOUT:
        click.echo(f"Wrote {output}.", err=True)


def _format_of(output: str) -> str:
    if output == STDOUT:
        return HTML
    suffix = Path(output).suffix.lower()
    if suffix not in _OF_SUFFIX:
        raise click.BadParameter(
            f"{output} does not end with .html, .csv or .json; say --format", param_hint="--output"
        )
    return _OF_SUFFIX[suffix]


async def _report(batch_id: str, output: str, chosen: str) -> int:
    """Write the report; return how many imports have not ended."""
    with open_output(output) as write:
        async with open_views(load_settings()) as views:
            counts = await views.batch(batch_id)
            if counts is None:
                raise not_known_batch(batch_id)
            with _progress(counts) as advance:
                if chosen == HTML:
                    write(page(await gather(views, counts, advance)))
                else:
                    await _write_results(views, counts, WRITERS[chosen](), write, advance)
    return counts.left


async def _write_results(
    views: ImportViews,
    counts: BatchCounts,
    results: Results,
    write: Write,
    advance: Callable[[int], None],
) -> None:
    expired = 0
    write(results.begin(counts))
    async for members in views.member_pages(counts.batch_id):
        write(results.page(item for item in members.items if item.batch_id == counts.batch_id))
        expired += members.expired
        advance(len(members.items) + members.expired)
    write(results.end(expired))
    if expired:
        click.echo(f"{expired:,} records have expired and are missing.", err=True)


@contextmanager
def _progress(counts: BatchCounts) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many imports were read; yield the function that adds to them."""
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=is_plain(console)) as progress:
        task = progress.add_task("reading", total=counts.accepted + counts.known)
        yield lambda number: progress.advance(task, number)


@contextmanager
def open_output(name: str) -> Iterator[Write]:
    """Yield the function that writes to a file, which is replaced only when all is written.

    Raises:
        BadParameter: if there is something else of this name, such as a directory or a device.
        FailedHereError: if the file can't be written.

    """
    if name == STDOUT:
        yield sys.stdout.write
        return
    path = Path(name).resolve()
    if path.exists() and not path.is_file():
        raise click.BadParameter(f"{name} is not a file", param_hint="--output")
    part = path.with_name(f".{path.name}.part")
    try:
        with _failing_as(name), part.open("w", encoding="utf-8", newline="") as file:
            yield _guarded(file.write, name)
        with _failing_as(name):
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _guarded(write: Callable[[str], int], name: str) -> Write:
    # An OSError within the connection's block would be taken for one of the store's.
    def guarded(text: str) -> None:
        with _failing_as(name):
            write(text)

    return guarded


@contextmanager
def _failing_as(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FailedHereError(f"{name}: {error.strerror}") from error
