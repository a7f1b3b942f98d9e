"""The options of a batch's schedule."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click

from worker.cli.listing import Duration
from worker.cli.scheduling import shown
from worker.domain.schedules import Schedule, ScheduleError, Window, local_time


class StartTime(click.ParamType[datetime]):
    """A time with an offset or a time zone, or a duration from now, such as +2h."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time; if it is invalid, fail with a message that says why."""
        if isinstance(value, datetime):
            return value
        text = str(value)
        if text.startswith("+"):
            return datetime.now(UTC) + timedelta(seconds=Duration().convert(text[1:], param, ctx))
        try:
            return local_time(text)
        except ScheduleError as error:
            self.fail(f"{text!r} {error}; or a duration such as +2h", param, ctx)


class WindowText(click.ParamType[str]):
    """Times and a time zone, such as 22:00-06:00 Europe/Berlin."""

    name = "WINDOW"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the text; if it is invalid, fail with a message that says why."""
        try:
            return Window.parse(str(value)).text
        except ScheduleError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def schedule_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a batch's schedule to a command; `schedule_of` takes their values."""
    for option in (
        click.option(
            "--max-per-hour",
            type=click.IntRange(1),
            metavar="N",
            help="Start at most N imports in an hour, spread over it, on all workers together.",
        ),
        click.option(
            "--window",
            type=WindowText(),
            metavar="WINDOW",
            help='Start imports only in this window, such as "22:00-06:00 Europe/Berlin" or'
            ' "Mon-Fri 22:00-06:00, Sat 00:00-24:00 UTC". What runs when it closes continues.',
        ),
        click.option(
            "--start-at",
            type=StartTime(),
            metavar="TIME",
            help='Start no import before this time: "2026-12-01 22:00 Europe/Berlin",'
            " 2026-12-01T21:00Z, or +2h.",
        ),
    ):
        command = option(command)
    return command


dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Send and store nothing; print what would be imported, when, and how long it would take."
    " Exits with 2 if a row is invalid.",
)


def schedule_of(
    start_at: datetime | None, window: str | None, max_per_hour: int | None
) -> Schedule:
    """Return the schedule that options give; say so if a start time has passed."""
    if start_at and start_at <= datetime.now(UTC):
        click.echo(f"--start-at: {shown(start_at)} has passed; imports start at once.", err=True)
        start_at = None
    return Schedule(
        start_at_ms=round(start_at.timestamp() * 1000) if start_at else None,
        window=window,
        max_per_hour=max_per_hour,
    )
