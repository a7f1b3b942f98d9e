"""`amplify-import run`: imports a batch file with a store and workers of its own, on this machine.

Each batch has its own store, so an interrupted batch continues only when its own file is run again.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from config.settings import Settings, load_settings
from worker.cli.accounts import account_of, check_by_configuration
from worker.cli.batchfile import Row
from worker.cli.client import (
    UnreachableError,
    open_store,
    open_views,
)
from worker.cli.dryrun import dry_run_here
from worker.cli.output import outlive_output
from worker.cli.preflight import preflight_option
from worker.cli.regions import check_regions
from worker.cli.scheduleoptions import dry_run_option, schedule_options
from worker.cli.sending import import_id_of, producer_of, submit_batch
from worker.cli.submit import (
    BatchOptions,
    batch_id_of,
    batch_id_option,
    file_argument,
    read_file,
    show_problems,
    stop_rule,
)
from worker.cli.watch import watch_to_the_end
from worker.domain.outcomes import NO_RULE, StopRule
from worker.domain.preflight import Mode
from worker.domain.schedules import AT_ONCE, Schedule
from worker.local.errors import StateError
from worker.local.sandbox import LocalSandbox
from worker.local.server import EmbeddedServer
from worker.local.workers import Workers, settings_of
from worker.parameters import store_config
from worker.sandbox.loader import load_scenario
from worker.store.control import BatchControl

INTERRUPTED: Final = 130
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_SECONDS: Final = 1.0

SANDBOX_SCENARIO: Final = "calm"
# Defaults with --sandbox. The sandbox's jobs take less than a second, and a new sandbox never knows
# the jobs of an earlier one.
SANDBOX_SETTINGS: Final = {
    "IMPORTS_POLL_MIN_SECONDS": "0.5",
    "IMPORTS_POLL_MAX_SECONDS": "5",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
}


@click.command()
@file_argument
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where batches are stored. Default: amplify-import in $XDG_STATE_HOME or ~/.local/state.",
)
@batch_id_option
@click.option(
    "--skip-invalid", is_flag=True, help="Import the valid rows of a file that has invalid ones."
)
@preflight_option
@stop_rule
@schedule_options
@dry_run_option
@click.option("--resume", is_flag=True, help="Resume a batch that its stop rule has paused.")
@click.option("--sandbox", is_flag=True, help="Call the simulated API instead of AWS.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 16), help="Worker processes."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; the rest on stderr.")
@click.pass_context
def run(context: click.Context, /, file: str, **options: Any) -> None:
    """Import a batch file with nothing else running: no Redis, no worker, no broker.

    It starts a store and a worker of its own, and stops them at the end. Running the same file
    again resumes it after any interruption; no row is imported twice. A changed file is a new
    batch, unless you pass the same --batch-id: then only its new and changed rows are imported.

    The imports continue even if the output can no longer be written. With --sandbox, interrupting
    it also loses the simulated jobs that were running; their imports end as failed.

    Exit codes: 0 if all imports succeeded; 1 if one did not, or the batch paused (--canary,
    --stop-percent); 2 if the file is invalid; 3 if the store or the worker could not run, or the
    results could not be written; 130 if interrupted; 141 if the reader of standard output left.
    """
    outlive_output()
    context.exit(_import_file(file, Options(**options)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(BatchOptions):
    """The options of `run`."""

    state_dir: Path | None
    resume: bool
    sandbox: bool
    workers: int


def _import_file(file: str, options: Options) -> int:
    if options.sandbox and options.checks is not Mode.OFF:
        raise click.UsageError("--sandbox has no user pools for --preflight to check.")
    settings = load_settings()
    batch = check_by_configuration(read_file(file), settings, with_profiles=not options.sandbox)
    batch = options.preflight(batch, settings)
    schedule = options.schedule()
    if options.dry_run:
        batch_id = batch_id_of(batch, file, options.batch_id)
        return dry_run_here(batch_id, batch, schedule, settings, as_json=options.as_json)
    show_problems(batch, skip_invalid=options.skip_invalid)
    if not options.sandbox:
        check_regions(batch.rows)
    batch_id = batch_id_of(batch, file, options.batch_id)
    kind = "practice" if options.sandbox else "batches"
    plan = Plan(
        batch_id=batch_id,
        rows=batch.rows,
        directory=(options.state_dir or default_state_directory()) / kind / batch_id,
        workers=options.workers,
        rule=options.rule,
        schedule=schedule,
        resume=options.resume,
        as_json=options.as_json,
    )
    code = asyncio.run(interruptible(_run(plan, sandbox=options.sandbox)))
    if batch.bad_rows:
        click.echo(f"{batch.bad_rows:,} bad rows of the file were skipped.", err=True)
    if code == INTERRUPTED:
        click.echo("Interrupted; run the same command again to resume.", err=True)
    return code


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to import, and the directory of the store.

    `rule` is the stop rule of a new batch. `schedule` is the schedule of a new batch; of a batch
    that is known, it replaces what it names. `resume` resumes a batch that its stop rule has
    paused. `more_at` says where all results will be; by default, in the file `results`.
    """

    batch_id: str
    rows: Sequence[Row]
    directory: Path
    workers: int = 1
    rule: StopRule = NO_RULE
    schedule: Schedule = AT_ONCE
    resume: bool = False
    as_json: bool = False
    more_at: str = ""

    @property
    def results(self) -> Path:
        """The file for the results of all imports: the store will no longer run then."""
        return self.directory / "results.jsonl"


def default_state_directory() -> Path:
    """Return the default state directory, by the XDG Base Directory Specification.

    As the specification says, a relative path in XDG_STATE_HOME is ignored.
    """
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".local" / "state"
    return base / "amplify-import"


async def interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Do the work and return its exit code; if a signal cancels it, return INTERRUPTED.

    Further signals have no effect: the cancelled work ends within a limited time.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def interrupt() -> None:
        if not task.cancelling():
            task.cancel()
            # With a delay, because the live display is still open.
            say = partial(click.echo, "Finishing the calls in progress ...", err=True)
            loop.call_later(PATIENCE_SECONDS, say)

    for number in SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED


async def import_rows(plan: Plan, server: EmbeddedServer, env: Mapping[str, str]) -> int:
    """Import what is left of the plan, show the progress, and return the exit code.

    Raises:
        LocalError: if the server ends, or the workers end again and again.

    """
    settings = settings_of(server.url)
    total, left = await _total_and_left(plan, settings)
    follow = partial(
        watch_to_the_end,
        settings,
        plan.batch_id,
        as_json=plan.as_json,
        total=total,
        more_at=plan.more_at or str(plan.results),
        resume_by="run the same command with --resume",
    )
    if not left:
        click.echo(f"Batch {plan.batch_id} is complete.", err=True)
        return await follow()
    async with Workers(plan.workers, server, env) as workers:
        app = producer_of(settings)
        submit = partial(
            submit_batch, app, plan.batch_id, plan.rows, total, plan.rule, schedule=plan.schedule
        )
        await _change_known_batch(plan, settings)

        async def submit_again(happened: str) -> None:
            # The broker redelivers the dead worker's message only after minutes.
            click.echo(happened, err=True)
            await asyncio.to_thread(submit)

        await asyncio.to_thread(submit)
        return await _while_alive(follow(), workers.watch(submit_again))


async def _run(plan: Plan, *, sandbox: bool) -> int:
    env: Mapping[str, str] = os.environ
    async with AsyncExitStack() as stack:
        server = EmbeddedServer(plan.directory, lost=UnreachableError)
        await stack.enter_async_context(server)
        if sandbox:
            accounts = {account_of(row) for row in plan.rows}
            simulated = LocalSandbox(load_scenario(SANDBOX_SCENARIO), accounts, plan.directory)
            await stack.enter_async_context(simulated)
            env = simulated.environment({**SANDBOX_SETTINGS, **env})
        code = await import_rows(plan, server, env)
        await write_results(plan, settings_of(server.url))
        click.echo(f"All results: {plan.results}", err=True)
    return code


async def write_results(plan: Plan, settings: Settings) -> None:
    """Write the result of every import, one JSON object per line. The file is never incomplete.

    Raises:
        StateError: if the file can't be written. Running the same batch file again writes it.

    """
    async with open_views(settings) as views:
        items = await views.members(plan.batch_id, limit=sys.maxsize)
    part = plan.results.with_suffix(".part")
    try:
        part.write_text("".join(f"{json.dumps(item.result())}\n" for item in items))
        part.replace(plan.results)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StateError(
            f"All imports have ended, but {plan.results} could not be written: {error.strerror}."
            " Run the same command again to write the file."
        ) from error


async def _total_and_left(plan: Plan, settings: Settings) -> tuple[int, int]:
    """Return the number of the batch's imports, with the plan's rows, and of those not ended.

    The plan's rows that are new to the store are found by their import ids, because the file may
    have changed since an earlier run with the same --batch-id.
    """
    new = await _count_new(plan, settings)
    async with open_views(settings) as views:
        counts = await views.batch(plan.batch_id)
    known = counts.accepted if counts else 0
    finished = counts.finished if counts else 0
    return known + new, known + new - finished


async def _count_new(plan: Plan, settings: Settings) -> int:
    async with open_views(settings) as views:
        known = await views.count_known([import_id_of(row, plan.batch_id) for row in plan.rows])
    return len(plan.rows) - known


async def _change_known_batch(plan: Plan, settings: Settings) -> None:
    """Resume the batch and change its schedule, as the plan says, if an earlier run created it."""
    async with open_store(settings) as redis:
        control = BatchControl(redis, store_config(settings))
        if plan.resume:
            await control.resume(plan.batch_id)
        if plan.schedule:
            await control.schedule(plan.batch_id, plan.schedule)


async def _while_alive(work: Coroutine[Any, Any, int], watch: Coroutine[Any, Any, int]) -> int:
    """Return the result of `work`, unless `watch` raises an error first."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(watch)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
