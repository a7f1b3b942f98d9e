"""`amplify-import run`: imports a batch file with nothing but this machine: store, worker, the end.

Each batch has a store of its own, so that one that was interrupted goes on only when its own file
is run again.
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

from config.settings import Settings
from worker.cli.batches import open_batch
from worker.cli.batchfile import Row
from worker.cli.client import BadInputError, import_id_of, open_store, open_views, submit_batch
from worker.cli.embedded import EmbeddedServer, StateError
from worker.cli.output import outlive_output
from worker.cli.practice import Practice
from worker.cli.submit import batch_id_of, read_file, show_problems, stop_rule
from worker.cli.watch import watch_to_the_end
from worker.cli.workers import Workers, producer_of, settings_of
from worker.domain.outcomes import NO_RULE, StopRule
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.aws import Aws
from worker.sandbox.loader import load_scenario
from worker.store.keys import IMPORT

INTERRUPTED: Final = 130
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_SECONDS: Final = 1.0
ASKED_AT_ONCE: Final = 1000

PRACTICE_SCENARIO: Final = "calm"
# Unless the user says otherwise. The sandbox's jobs take less than a second, and a sandbox that was
# started anew will never know those of an earlier one.
PRACTICE_SETTINGS: Final = {
    "IMPORTS_POLL_MIN_SECONDS": "0.5",
    "IMPORTS_POLL_MAX_SECONDS": "5",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
}


@click.command()
@click.argument(
    "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where batches are kept. Default: amplify-import below $XDG_STATE_HOME or ~/.local/state.",
)
@click.option("--batch-id", default="", help="Default: the file's name and a digest of it.")
@click.option("--skip-invalid", is_flag=True, help="Import the good rows of a file with bad ones.")
@stop_rule
@click.option("--resume", is_flag=True, help="Go on with a batch that its stop rule has paused.")
@click.option("--sandbox", is_flag=True, help="Practise: call a sandbox in place of AWS.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 16), help="Worker processes."
)
@click.option("--json", "as_json", is_flag=True, help="Print the end as JSON; progress on stderr.")
@click.pass_context
def run(
    context: click.Context,
    file: str,
    state_dir: Path | None,
    batch_id: str,
    *,
    skip_invalid: bool,
    canary: int | None,
    stop_percent: float | None,
    resume: bool,
    sandbox: bool,
    workers: int,
    as_json: bool,
) -> None:
    """Import a batch file with nothing else running: no Redis, no worker, no broker.

    It starts a store and a worker of its own and stops them at the end. To run the same file again
    goes on where it was interrupted, however that happened; nothing is imported twice. A file that
    was changed is another batch, unless --batch-id says that it is the same: then only its new and
    changed rows are imported.

    With --sandbox, jobs that run when it is interrupted are lost with it, and end as failed.

    When nothing can be printed any more, the imports go on.

    Ends with 0 when all imports succeeded, with 1 when one ended badly or the batch paused itself
    (--canary, --stop-percent), with 2 when the file is bad, with 3 when store or worker do not run
    or results can't be written, with 130 when interrupted, with 141 when all succeeded and the
    reader of standard output went away.
    """
    outlive_output()
    batch = read_file(file)
    show_problems(batch, skip_invalid=skip_invalid)
    if not sandbox:
        _check_regions(batch.rows)
    batch_id = batch_id_of(batch, file, batch_id)
    plan = Plan(
        batch_id=batch_id,
        rows=batch.rows,
        directory=(state_dir or default_state_directory())
        / ("practice" if sandbox else "batches")
        / batch_id,
        workers=workers,
        rule=StopRule(canary or 0, stop_percent),
        resume=resume,
        as_json=as_json,
    )
    code = asyncio.run(interruptible(_run(plan, sandbox=sandbox)))
    if batch.bad_rows:
        click.echo(f"{batch.bad_rows:,} bad rows of the file were skipped.", err=True)
    if code == INTERRUPTED:
        click.echo("Interrupted; run the same command again to resume.", err=True)
    context.exit(code)


def _check_regions(rows: Sequence[Row]) -> None:
    """Refuse rows whose region nobody knows: they would end as rejected, each of them, for good."""
    aws = Aws(timeout_seconds=1.0, max_connections=1)
    accounts = {
        r.members.get("account", DEFAULT_ACCOUNT) for r in rows if "region" not in r.members
    }
    for account in sorted(accounts):
        if not aws.region_of(account):
            raise BadInputError(
                f"No region for account {account}: set AWS_REGION, give its profile one, or add a"
                " column region. Nothing was imported."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to import, and where the store lies. `more_at` says where all results will be.

    `resume` lets a batch go on that its stop rule has paused.
    """

    batch_id: str
    rows: Sequence[Row]
    directory: Path
    workers: int = 1
    rule: StopRule = NO_RULE
    resume: bool = False
    as_json: bool = False
    more_at: str = ""

    @property
    def results(self) -> Path:
        """Where every import's result is left behind: there will be no store to ask for it."""
        return self.directory / "results.jsonl"


def default_state_directory() -> Path:
    """Return where state is kept, by the XDG Base Directory Specification.

    It wants relative paths ignored: they would be another place in each directory.
    """
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".local" / "state"
    return base / "amplify-import"


async def interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Do the work; return its exit code, or INTERRUPTED once a signal has made it unwind.

    Further signals change nothing: it unwinds within bounded time.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def interrupt() -> None:
        if not task.cancelling():
            task.cancel()
            # Later: the live display is still open.
            say = partial(click.echo, "Finishing the calls on the way ...", err=True)
            loop.call_later(PATIENCE_SECONDS, say)

    for number in SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED


async def import_rows(plan: Plan, server: EmbeddedServer, env: Mapping[str, str]) -> int:
    """Import what is left of the plan, show how, and return the exit code.

    Raises:
        LocalError: when the server or the workers do not stay alive.

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
        submit = partial(
            submit_batch, producer_of(settings), plan.batch_id, plan.rows, total, plan.rule
        )
        if plan.resume:
            async with open_batch(settings, plan.batch_id) as control:
                await control.resume(plan.batch_id)

        async def submit_again(happened: str) -> None:
            # The message that the dead worker held comes back only after minutes.
            click.echo(happened, err=True)
            await asyncio.to_thread(submit)

        await asyncio.to_thread(submit)
        return await _while_alive(follow(), workers.watch(submit_again))


async def _run(plan: Plan, *, sandbox: bool) -> int:
    env: Mapping[str, str] = os.environ
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(plan.directory))
        if sandbox:
            accounts = {row.members.get("account", DEFAULT_ACCOUNT) for row in plan.rows}
            practice = Practice(load_scenario(PRACTICE_SCENARIO), accounts, plan.directory)
            await stack.enter_async_context(practice)
            env = practice.environment({**PRACTICE_SETTINGS, **env})
        code = await import_rows(plan, server, env)
        await write_results(plan, settings_of(server.url))
        click.echo(f"All results: {plan.results}", err=True)
    return code


async def write_results(plan: Plan, settings: Settings) -> None:
    """Write every import's result, one JSON object a line; the file is never one of a part.

    Raises:
        StateError: when it can't be written; to run the same file again writes it.

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
            f"The imports are over, but {plan.results} could not be written: {error.strerror}."
            " Run the same command again to write it."
        ) from error


async def _total_and_left(plan: Plan, settings: Settings) -> tuple[int, int]:
    """Return how many imports the batch has with the plan's rows, and how many are not over.

    Rows that the store does not know are counted by their ids: under a batchId of the user's
    choice, the file may have changed since.
    """
    new = await _count_new(plan, settings)
    async with open_views(settings) as views:
        counts = await views.batch(plan.batch_id)
    known = counts.accepted if counts else 0
    finished = counts.finished if counts else 0
    return known + new, known + new - finished


async def _count_new(plan: Plan, settings: Settings) -> int:
    keys = [IMPORT.name + import_id_of(row, plan.batch_id) for row in plan.rows]
    known = 0
    async with open_store(settings) as redis:
        for start in range(0, len(keys), ASKED_AT_ONCE):
            known += await redis.exists(*keys[start : start + ASKED_AT_ONCE])
    return len(keys) - known


async def _while_alive(work: Coroutine[Any, Any, int], watch: Coroutine[Any, Any, int]) -> int:
    """Return the result of `work`, unless `watch` raises before."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(watch)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
