"""`amplify-import submit`: checks a batch file and sends it."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import Progress

from config.settings import Settings, load_settings
from worker.cli.accounts import check_by_workers
from worker.cli.batchfile import BatchFile, Problem, read_batch, stem_of
from worker.cli.batchtext import STANDARD_INPUT, BatchFileError
from worker.cli.client import BadInputError, make_console
from worker.cli.dryrun import dry_run_submission
from worker.cli.preflight import preflight, preflight_option
from worker.cli.problems import lines_about
from worker.cli.progress import is_plain
from worker.cli.scheduleoptions import dry_run_option, schedule_of, schedule_options
from worker.cli.sending import producer_of, submit_batch
from worker.cli.watch import watch_to_the_end
from worker.domain.outcomes import NO_RULE, StopRule
from worker.domain.preflight import Mode
from worker.domain.requests import IDENTIFIER_PATTERN
from worker.domain.schedules import AT_ONCE, Schedule

file_argument: Final = click.argument(
    "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
batch_id_option: Final = click.option(
    "--batch-id",
    default="",
    help="Id of the batch. Default: the file's name and a digest of its content.",
)


class Percent(click.ParamType[float]):
    """A percentage, with or without the sign: 5 or 5%."""

    name = "P"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; if it is not between 0 and 100, fail."""
        number: Any = str(value).strip().removesuffix("%")
        return click.FloatRange(0, 100).convert(number, param, ctx)


def stop_rule(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a batch's stop rule to a command."""
    for option in (
        click.option(
            "--stop-percent",
            "--stop-on-failures",
            type=Percent(),
            metavar="P",
            help="Pause the batch when more than P % of its ended imports (counted as 20 while"
            " there are fewer) did not succeed.",
        ),
        click.option(
            "--canary",
            type=click.IntRange(1),
            metavar="N",
            help="Import the first N alone. Continue when all of them succeeded; otherwise pause."
            " With --stop-percent, pause only when more than P % of them did not succeed.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@file_argument
@batch_id_option
@click.option(
    "--skip-invalid", is_flag=True, help="Submit the valid rows of a file that has invalid ones."
)
@preflight_option
@stop_rule
@schedule_options
@dry_run_option
@click.option(
    "--watch", "watching", is_flag=True, help="Follow the batch until all imports have ended."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; the rest on stderr.")
@click.pass_context
def submit(context: click.Context, /, file: str, **options: Any) -> None:
    """Submit a batch file to running workers.

    FILE is CSV, with member names as header, or JSON; - is standard input.

    The whole file is checked first. If one row is invalid, nothing is sent. Submitting the same
    file again is harmless: no row is imported twice. A changed file is a new batch, unless you pass
    the same --batch-id: then only its new and changed rows are imported.
    """
    context.exit(_submit(file, Options(**options)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """The options of the commands that take a batch file."""

    batch_id: str
    skip_invalid: bool
    checks: Mode
    canary: int | None
    stop_percent: float | None
    start_at: datetime | None
    window: str | None
    max_per_hour: int | None
    dry_run: bool
    as_json: bool

    @property
    def rule(self) -> StopRule:
        """The batch's stop rule."""
        return StopRule(self.canary or 0, self.stop_percent)

    def schedule(self) -> Schedule:
        """Return the batch's schedule; say so if its start time has passed."""
        return schedule_of(self.start_at, self.window, self.max_per_hour)

    def preflight(self, batch: BatchFile, settings: Settings) -> BatchFile:
        """Return the file with what preflight finds. A dry run also checks files with bad rows."""
        skips = self.skip_invalid or self.dry_run
        return preflight(batch, settings, self.checks, skip_invalid=skips)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(BatchOptions):
    """The options of `submit`."""

    watching: bool


def _submit(file: str, options: Options) -> int:
    settings, as_json = load_settings(), options.as_json
    batch = options.preflight(check_by_workers(read_file(file), settings), settings)
    schedule = options.schedule()
    if options.dry_run:
        batch_id = batch_id_of(batch, file, options.batch_id)
        return dry_run_submission(batch_id, batch, schedule, settings, as_json=as_json)
    show_problems(batch, skip_invalid=options.skip_invalid)
    batch_id = batch_id_of(batch, file, options.batch_id)
    messages = send(batch_id, batch, options.rule, schedule=schedule, quiet=as_json)
    _print_sent(batch_id, batch, messages, as_json=as_json, watching=options.watching)
    if not options.watching:
        return 0
    total = len(batch.rows)
    return asyncio.run(watch_to_the_end(settings, batch_id, as_json=as_json, total=total))


def read_file(file: str) -> BatchFile:
    """Read a batch file. Print its format and encoding if they are unusual.

    Raises:
        BadInputError: if the file can't be read, or is not a batch file.

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
    """Print the problems of the file.

    Raises:
        BadInputError: if there are problems, unless `skip_invalid` is set and some rows are valid.

    """
    for line in lines_about(batch.warnings):
        click.echo(f"warning: {line}", err=True)
    for line in lines_about(batch.problems):
        click.echo(line, err=True)
    if not batch.problems or (skip_invalid and batch.rows):
        return
    advice = "--skip-invalid submits the others" if batch.rows else "no row is valid"
    raise BadInputError(f"Nothing was submitted: {_rows(batch.bad_rows)} bad ({advice}).")


def batch_id_of(batch: BatchFile, file: str, wanted: str) -> str:
    """Return the batchId: `wanted`, else that of the rows, else one made of name and content.

    Raises:
        click.UsageError: if `wanted` is invalid, or differs from that of the rows.

    """
    if wanted and batch.batch_id and wanted != batch.batch_id:
        raise click.UsageError(f"--batch-id is {wanted}, but the rows say {batch.batch_id}.")
    if wanted and not IDENTIFIER_PATTERN.fullmatch(wanted):
        raise click.UsageError("--batch-id must be an id of letters, digits and ._:@+=-")
    return wanted or batch.batch_id or f"{_stem_of(file)}-{batch.digest[:8]}"


def _stem_of(file: str) -> str:
    """Return the file's name in a form that an id may contain; `batch` for a pipe."""
    has_name = Path(file).is_file() and not file.startswith(("/dev/", "/proc/"))
    stem = stem_of(file) if has_name else ""
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._:@+=-]+", "-", stem).strip("-")[:64] or "batch"


def send(
    batch_id: str,
    batch: BatchFile,
    rule: StopRule = NO_RULE,
    recover_since: str | None = None,
    *,
    schedule: Schedule = AT_ONCE,
    quiet: bool = False,
) -> int:
    """Send a batch file and show the progress; return the number of messages."""
    console = make_console(stderr=quiet)
    with Progress(console=console, transient=True, disable=is_plain(console)) as progress:
        task = progress.add_task("sending", total=len(batch.rows))
        return submit_batch(
            producer_of(load_settings()),
            batch_id,
            batch.rows,
            len(batch.rows),
            rule,
            on_sent=lambda number: progress.advance(task, number),
            recover_since=recover_since,
            schedule=schedule,
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
        click.echo(json.dumps(sent_as_json(batch_id, batch, messages)))


def sent_as_json(batch_id: str, batch: BatchFile, messages: int) -> dict[str, Any]:
    """Return what was sent of a batch file, in how many messages, for JSON output."""
    return {
        "batchId": batch_id,
        "submitted": len(batch.rows),
        "skipped": batch.bad_rows,
        "messages": messages,
        "problems": [_problem_as_json(problem) for problem in batch.problems],
        "warnings": [_problem_as_json(warning) for warning in batch.warnings],
    }


def _problem_as_json(problem: Problem) -> dict[str, str | int]:
    return {"line": problem.line, "member": problem.member, "reason": problem.reason}


def _rows(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"
