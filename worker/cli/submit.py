"""`amplify-import submit`: checks a batch file and sends it."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from rich.progress import Progress

from config.settings import load_settings
from worker.celery import app
from worker.cli.batchfile import BatchFile, Problem, read_batch, stem_of
from worker.cli.batchtext import STANDARD_INPUT, BatchFileError
from worker.cli.client import BadInputError, make_console, submit_batch
from worker.cli.progress import is_plain
from worker.cli.watch import watch_to_the_end
from worker.domain.outcomes import NO_RULE, StopRule
from worker.domain.requests import IDENTIFIER_PATTERN

PROBLEMS_SHOWN: Final = 20
EXAMPLES: Final = """\b
Examples:
  amplify-import submit apps.csv --watch
  amplify-import submit apps.jsonl --batch-id wave-1 --skip-invalid
  amplify-import submit apps.csv --canary 10 --stop-percent 5
"""


def stop_rule(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a batch's stop rule to a command."""
    for option in (
        click.option(
            "--stop-percent",
            type=click.FloatRange(0, 100),
            metavar="P",
            help="Pause the batch when more than P % of at least 20 imports ended badly.",
        ),
        click.option(
            "--canary",
            type=click.IntRange(1),
            metavar="N",
            help="Import the first N alone; go on when they ended, pause when one ended badly"
            " (or more than --stop-percent of them).",
        ),
    ):
        command = option(command)
    return command


@click.command(epilog=EXAMPLES)
@click.argument(
    "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option("--batch-id", default="", help="Default: the file's name and a digest of it.")
@click.option("--skip-invalid", is_flag=True, help="Submit the good rows of a file with bad ones.")
@stop_rule
@click.option("--watch", "watching", is_flag=True, help="Follow the batch until all is over.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; the rest on stderr.")
@click.pass_context
def submit(
    context: click.Context,
    file: str,
    batch_id: str,
    *,
    skip_invalid: bool,
    canary: int | None,
    stop_percent: float | None,
    watching: bool,
    as_json: bool,
) -> None:
    """Submit a batch file: CSV (the header holds member names) or JSON; - is stdin.

    The whole file is checked first: with one bad row, nothing is sent. To submit the same file
    again is harmless: what was accepted before is not imported twice. A file that was changed is
    another batch, unless --batch-id says that it is the same.
    """
    settings = load_settings()
    batch = read_file(file)
    show_problems(batch, skip_invalid=skip_invalid)
    batch_id = batch_id_of(batch, file, batch_id)
    messages = send(batch_id, batch, StopRule(canary or 0, stop_percent), quiet=as_json)
    _print_sent(batch_id, batch, messages, as_json=as_json, watching=watching)
    if watching:
        total = len(batch.rows)
        ending = watch_to_the_end(settings, batch_id, as_json=as_json, total=total)
        context.exit(asyncio.run(ending))


def read_file(file: str) -> BatchFile:
    """Read a batch file, and say how it is written where that is not the usual way.

    One that can't be read at all is bad input.
    """
    name = "standard input" if file == STANDARD_INPUT else file
    try:
        batch = read_batch(file)
    except BatchFileError as error:
        raise BadInputError(f"{name}: {error}") from error
    except OSError as error:
        raise BadInputError(f"{name}: {error.strerror}") from error
    if batch.detected:
        click.echo(f"{name}: {batch.detected}", err=True)
    return batch


def show_problems(batch: BatchFile, *, skip_invalid: bool) -> None:
    """Print what is wrong with the file; that is the end, unless the good rows may go."""
    for problem in batch.problems[:PROBLEMS_SHOWN]:
        click.echo(str(problem), err=True)
    if (more := len(batch.problems) - PROBLEMS_SHOWN) > 0:
        click.echo(f"... and {more:,} more problems", err=True)
    if not batch.problems or (skip_invalid and batch.rows):
        return
    advice = "--skip-invalid submits the others" if batch.rows else "no row is good"
    raise BadInputError(f"Nothing was submitted: {_rows(batch.bad_rows)} bad ({advice}).")


def batch_id_of(batch: BatchFile, file: str, wanted: str) -> str:
    """Return the batchId: the one wanted, else that of the rows, else made of name and content."""
    if wanted and batch.batch_id and wanted != batch.batch_id:
        raise click.UsageError(f"--batch-id is {wanted}, but the rows say {batch.batch_id}.")
    if wanted and not IDENTIFIER_PATTERN.fullmatch(wanted):
        raise click.UsageError("--batch-id must be an id of letters, digits and ._:@+=-")
    return wanted or batch.batch_id or f"{_stem_of(file)}-{batch.digest[:8]}"


def _stem_of(file: str) -> str:
    """Return the file's name as it may stand in an id; that of a pipe says nothing."""
    has_name = Path(file).is_file() and not file.startswith(("/dev/", "/proc/"))
    stem = stem_of(file) if has_name else ""
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._:@+=-]+", "-", stem).strip("-")[:64] or "batch"


def send(
    batch_id: str,
    batch: BatchFile,
    rule: StopRule = NO_RULE,
    recover_since: str | None = None,
    *,
    quiet: bool = False,
) -> int:
    """Send a batch file, showing how far that is; return how many messages it took."""
    console = make_console(stderr=quiet)
    with Progress(console=console, transient=True, disable=is_plain(console)) as progress:
        task = progress.add_task("sending", total=len(batch.rows))
        return submit_batch(
            app,
            batch_id,
            batch.rows,
            len(batch.rows),
            rule,
            on_sent=lambda number: progress.advance(task, number),
            recover_since=recover_since,
        )


def _print_sent(
    batch_id: str, batch: BatchFile, messages: int, *, as_json: bool, watching: bool
) -> None:
    if not as_json:
        skipped = f", {_rows(batch.bad_rows)} skipped" if batch.bad_rows else ""
        click.echo(f"Submitted {_rows(len(batch.rows))} as batch {batch_id}{skipped}.")
        if not watching:
            click.echo(f"Follow it: amplify-import watch {batch_id}")
    elif not watching:
        sent = {
            "batchId": batch_id,
            "submitted": len(batch.rows),
            "skipped": batch.bad_rows,
            "messages": messages,
            "problems": [_problem_as_json(problem) for problem in batch.problems],
        }
        click.echo(json.dumps(sent))


def _problem_as_json(problem: Problem) -> dict[str, str | int]:
    return {"line": problem.line, "member": problem.member, "reason": problem.reason}


def _rows(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"
