"""`amplify-import audit`: checks every promise, for the whole store or for one batch."""

import asyncio
import json
from typing import Any, Final

import click
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from config.settings import Settings, load_settings
from worker.audit.auditor import AuditReport
from worker.audit.auditor import audit as audit_store
from worker.audit.promises import Promise
from worker.cli.client import make_console, not_known_batch, open_store
from worker.cli.progress import is_plain
from worker.store.views import ImportViews

VIOLATIONS_SHOWN: Final = 20


@click.command()
@click.argument("batch_id", metavar="[BATCH]", default="")
@click.option("--all", "everything", is_flag=True, help="List every violation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def audit(context: click.Context, batch_id: str, *, everything: bool, as_json: bool) -> None:
    """Check that every promise held, in the whole store or in one batch.

    It only reads, and can run while workers do. Give it the workers' settings, because it measures
    by their lease and retention times. Exits with 1 if it finds a violation.
    """
    report = asyncio.run(_audit(load_settings(), batch_id))
    if as_json:
        click.echo(json.dumps(_as_json(report)))
    else:
        _print(report, None if everything else VIOLATIONS_SHOWN)
    context.exit(0 if report.is_clean else 1)


async def _audit(settings: Settings, batch_id: str) -> AuditReport:
    console = make_console(stderr=True)
    async with open_store(settings) as redis:
        if batch_id and await ImportViews(redis).batch(batch_id) is None:
            raise not_known_batch(batch_id)
        with Progress(console=console, transient=True, disable=is_plain(console)) as progress:
            task = progress.add_task("reading", total=None)
            return await audit_store(
                redis,
                lease_seconds=settings.lease_seconds,
                retention_seconds=settings.retention_seconds,
                batch_id=batch_id,
                on_progress=lambda what, number: progress.update(
                    task, description=f"{number:,} {what} read"
                ),
            )


def _as_json(report: AuditReport) -> dict[str, Any]:
    return {
        "ok": report.is_clean,
        "events": report.events,
        "notCheckable": report.not_checkable,
        "promises": [
            {"promise": promise, "examined": number, "violations": _broken(report, promise)}
            for promise, number in report.examined.items()
        ],
        "violations": [
            {"promise": found.promise, "subject": found.subject, "sentence": found.sentence}
            for found in report.violations
        ],
    }


def _print(report: AuditReport, most: int | None) -> None:
    console = make_console()
    console.print(_table(report))
    if report.not_checkable:
        console.print(
            f"\nNot checkable in full: {report.not_checkable:,} imports, whose first events were "
            "trimmed off the stream.",
            soft_wrap=True,
        )
    if report.violations:
        console.print(_list(report, most), soft_wrap=True)


def _table(report: AuditReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("promise", no_wrap=True)
    table.add_column("examined", justify="right", no_wrap=True)
    table.add_column("violations", justify="right", no_wrap=True)
    for promise, number in report.examined.items():
        broken = _broken(report, promise)
        style = "red" if broken else "green"
        table.add_row(promise, f"{number:,}", Text(f"{broken:,}", style=style))
    return table


def _list(report: AuditReport, most: int | None) -> Text:
    text = Text()
    for found in report.violations[:most]:
        text.append(f"\n{found.promise}: ", style="red").append(f"{found.subject}: ", style="bold")
        text.append(f"{found.sentence}.")
    if (more := len(report.violations[len(report.violations[:most]) :])) > 0:
        text.append(f"\n... and {more:,} more: --all lists them.")
    return text


def _broken(report: AuditReport, promise: Promise) -> int:
    return sum(found.promise is promise for found in report.violations)
