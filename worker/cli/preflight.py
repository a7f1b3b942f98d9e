"""`--preflight`: asks AWS about what the rows of a batch file name, before any row is sent.

It uses the credentials of this machine. What is found wrong becomes a problem of the row.
"""

import asyncio
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import click
from rich.progress import Progress

from config.settings import Settings
from worker.cli.batchfile import BatchFile, Problem
from worker.cli.batchrow import IMPORT_ID
from worker.cli.client import make_console
from worker.cli.progress import is_plain
from worker.domain.preflight import NOTHING_FOUND, Checked, Mode, Place, Severity
from worker.operations.accounts import Accounts
from worker.operations.aws import Aws
from worker.operations.registry import OPERATIONS, Remote

AT_ONCE: Final = 20
CALL_SECONDS: Final = 30.0
ROW: Final = "row"


def preflight_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that set the parameter `checks`, a `Mode`, to a command."""
    for name, mode, text in (
        ("--require-preflight", Mode.REQUIRE, "The same, and refuse rows that can't be checked."),
        ("--preflight", Mode.REJECT, "First ask Cognito whether the pools can be imported."),
    ):
        option = click.option(
            name, "checks", flag_value=mode, type=click.Choice(Mode), default=Mode.OFF, help=text
        )
        command = option(command)
    return command


@dataclass(slots=True)
class _Check:
    """What one check is about, and the lines of the rows that it is for."""

    operation: str
    place: Place
    members: Mapping[str, str]
    lines: list[int] = field(default_factory=list)
    result: Checked = NOTHING_FOUND


def preflight(batch: BatchFile, settings: Settings, mode: Mode, *, skip_invalid: bool) -> BatchFile:
    """Return the file with the rows that Amplify would refuse as bad rows, and with warnings.

    Each pool is asked about once, however many rows name it. Rows that could not be checked get a
    warning; if the mode requires a check, they are bad. Nothing is asked if nothing will be sent:
    if the file has bad rows that are not to be skipped.
    """
    if mode is Mode.OFF or (batch.problems and not skip_invalid):
        return batch
    aws = Aws(CALL_SECONDS, AT_ONCE, is_allowed=Accounts(settings.accounts).is_allowed)
    checks = list(_checks(batch, aws))
    asyncio.run(_run(checks, aws))
    bad: dict[int, list[Problem]] = {}
    warnings: list[Problem] = []
    for check in checks:
        errors, others = _problems_of(check.result, required=mode is Mode.REQUIRE)
        for line in check.lines:
            warnings += [_problem(line, *other) for other in others]
            if errors:
                bad[line] = [_problem(line, *error) for error in errors]
    _say_what_was_checked(checks)
    found = [*batch.problems, *(problem for each in bad.values() for problem in each)]
    return replace(
        batch,
        rows=[row for row in batch.rows if row.line not in bad],
        problems=sorted(found, key=lambda problem: problem.line),
        warnings=(*batch.warnings, *sorted(warnings, key=lambda problem: problem.line)),
    )


def _checks(batch: BatchFile, aws: Aws) -> Iterator[_Check]:
    """Yield one check for all rows that name the same things in the same place."""
    checks: dict[str, _Check] = {}
    for row in batch.rows:
        request = OPERATIONS.parse({k: v for k, v in row.members.items() if k != IMPORT_ID})
        operation = OPERATIONS.operations[request.operation]
        place = Place(request.account, request.region or aws.region_of(request.account))
        given = json.loads(request.to_json())
        members = {name: given[name] for name in operation.members().values() if name in given}
        key = json.dumps([request.operation, str(place), members])
        if key not in checks:
            checks[key] = _Check(request.operation, place, members)
        checks[key].lines.append(row.line)
    yield from checks.values()


async def _run(checks: list[_Check], aws: Aws) -> None:
    """Run the checks, some at once, and show on a terminal how many are done."""
    remote = OPERATIONS.bind(aws, kept_seconds=math.inf)
    waiting = iter(checks)
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=is_plain(console)) as progress:
        task = progress.add_task("checking", total=len(checks))

        async def work() -> None:
            for check in waiting:
                check.result = await _result_of(check, remote)
                progress.advance(task)

        try:
            await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        finally:
            await aws.close()


async def _result_of(check: _Check, remote: Remote) -> Checked:
    if not check.place.region:
        return Checked(unchecked=f"account {check.place.account} has no region on this machine")
    return await remote.preflight(check.operation, check.members, check.place)


def _problems_of(
    checked: Checked, *, required: bool
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the errors and the warnings of a check, each with its member and its reason."""
    errors, warnings = (
        [(finding.member, finding.reason) for finding in checked.of(severity)]
        for severity in (Severity.ERROR, Severity.WARNING)
    )
    if checked.unchecked:
        (errors if required else warnings).append((ROW, f"was not checked: {checked.unchecked}"))
    return errors, warnings


def _problem(line: int, member: str, reason: str) -> Problem:
    return Problem(line, member, reason, shared=True)


def _say_what_was_checked(checks: Iterable[_Check]) -> None:
    rows = sum(len(check.lines) for check in checks if not check.result.unchecked)
    click.echo(f"Preflight: {rows:,} rows were checked.", err=True)
