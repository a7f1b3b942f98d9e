"""`amplify-import demo`: imports 200 apps into three simulated accounts, with faults."""

import asyncio
import csv
import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click

from worker.cli.batchfile import read_batch
from worker.cli.client import FailedHereError, UnreachableError, open_views
from worker.cli.run import INTERRUPTED, Plan, import_rows, interruptible, write_results
from worker.domain.events import EventType
from worker.local.guard import GuardedProcess
from worker.local.receiver import WebhookReceiver
from worker.local.sandbox import LocalSandbox
from worker.local.server import EmbeddedServer
from worker.local.workers import celery_command, code_directory, settings_of, store_environment
from worker.sandbox.loader import load_scenario
from worker.sandbox.scenario import Scenario

BATCH_ID: Final = "demo"
SCENARIO: Final = "demo"
FLOWER_PORT: Final = 5555
EVENTS_SHOWN: Final = 3
DELIVERY_SECONDS: Final = 10.0
MISSING_EVERY: Final = 40
"""One app in this many does not exist in the sandbox, which answers with 404."""

WORK_PREFIX: Final = "amplify-import-demo-"
KEPT_PREFIX: Final = "amplify-import-kept-"
STALE_SECONDS: Final = 60.0

# The sandbox's jobs take seconds, not minutes. The quotas of its accounts are not configured:
# the lanes must learn them.
DEMO_SETTINGS: Final = {
    "IMPORTS_POLL_MIN_SECONDS": "0.5",
    "IMPORTS_POLL_MAX_SECONDS": "2",
    "IMPORTS_SETTLE_SECONDS": "1",
}


@click.command()
@click.option(
    "--apps", default=200, show_default=True, type=click.IntRange(1, 10_000), help="How many apps."
)
@click.option("--keep", is_flag=True, help="Keep the batch file, the store and the logs.")
@click.pass_context
def demo(context: click.Context, apps: int, *, keep: bool) -> None:
    """Import 200 apps into three simulated accounts, with throttling, faults and failing jobs.

    A relay sends the events to a webhook, whose receiver checks their signatures.

    It needs no AWS account, no Redis and no configuration, and leaves nothing behind.
    """
    began = time.monotonic()
    with _work_directory(keep=keep) as directory:
        code = asyncio.run(interruptible(_demonstrate(directory, apps)))
        if keep:
            click.echo(f"\nKept in {directory}")
    if code == INTERRUPTED:
        click.echo("Interrupted; nothing was left behind.", err=True)
        context.exit(code)
    click.echo(f"\nThat took {time.monotonic() - began:.0f} seconds.")


async def _demonstrate(directory: Path, apps: int) -> int:
    scenario = load_scenario(SCENARIO)
    file = directory / "apps.csv"
    _write_batch(file, list(scenario.accounts), apps)
    _introduce(file, scenario, apps)
    async with AsyncExitStack() as stack:
        server = EmbeddedServer(directory / "state", lost=UnreachableError)
        await stack.enter_async_context(server)
        simulated = LocalSandbox(scenario, scenario.accounts, server.directory)
        await stack.enter_async_context(simulated)
        env = simulated.environment(_without_settings(os.environ) | DEMO_SETTINGS)
        stack.enter_context(_flower(server, env))
        receiver = await stack.enter_async_context(WebhookReceiver())
        stack.enter_context(_relay(server, {**env, **receiver.settings}))
        plan = Plan(
            batch_id=BATCH_ID,
            rows=read_batch(file).rows,
            directory=server.directory,
            more_at="kept with --keep",
        )
        await import_rows(plan, server, env)
        await write_results(plan, settings_of(server.url))
        await _show_lanes(server, scenario)
        await _show_events(server)
        await _show_received(receiver)
        _show_ledger(simulated.sandbox.snapshot())
    return 0


@contextmanager
def _work_directory(*, keep: bool) -> Iterator[Path]:
    """Create a directory, and remove it at the end unless `keep` is set.

    A demo that was killed can't remove its directory, so the next demo does.
    """
    _remove_stale()
    directory = Path(tempfile.mkdtemp(prefix=KEPT_PREFIX if keep else WORK_PREFIX))
    try:
        yield directory
    finally:
        if not keep:
            shutil.rmtree(directory)


def _remove_stale() -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{WORK_PREFIX}*"):
        status = directory.lstat()
        is_old = time.time() - status.st_mtime > STALE_SECONDS
        if status.st_uid == os.getuid() and is_old and not _is_in_use(directory):
            shutil.rmtree(directory, ignore_errors=True)


def _is_in_use(directory: Path) -> bool:
    try:
        with (directory / "state" / "run.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _write_batch(path: Path, accounts: list[str], apps: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, _row(accounts, 0).keys())
        writer.writeheader()
        writer.writerows(_row(accounts, number) for number in range(apps))


def _row(accounts: list[str], number: int) -> Mapping[str, str]:
    is_missing = number % MISSING_EVERY == MISSING_EVERY - 1
    return {
        "appId": f"d0missing{number:05}" if is_missing else f"d1demo{number:08}",
        "backendEnvironmentName": ("dev", "staging", "prod")[number // len(accounts) % 3],
        "userPoolId": f"us-east-1_Demo{number:05}",
        "webClientId": f"web{number:023}",
        "nativeClientId": f"native{number:020}",
        "account": accounts[number % len(accounts)],
        "region": "us-east-1",
    }


def _introduce(file: Path, scenario: Scenario, apps: int) -> None:
    rates = ", ".join(
        f"{name} {account.quota.starts.rate:g}/s"
        for name, account in scenario.accounts.items()
        if account.quota and account.quota.starts
    )
    click.echo(f"Importing {apps:,} apps of {file}")
    click.echo(f"into simulated accounts with these start quotas: {rates}.")
    click.echo(f"The sandbox: {scenario.description}")
    click.echo("Some apps do not exist. Press Ctrl-C to stop at any time.\n")


def _without_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` without the user's settings, because the demo has its own."""
    return {
        name: value for name, value in env.items() if not name.startswith(("IMPORTS_", "FLOWER_"))
    }


def _flower(server: EmbeddedServer, env: Mapping[str, str]) -> GuardedProcess:
    port = _free_port_near(FLOWER_PORT)
    click.echo(f"Flower, while this runs: http://127.0.0.1:{port}/tasks\n")
    return GuardedProcess(
        celery_command("flower", "--address=127.0.0.1", f"--port={port}"),
        log_path=server.directory / "flower.log",
        env=store_environment(env, server.url),
        cwd=code_directory(),
        grace_seconds=3.0,
    )


def _relay(server: EmbeddedServer, env: Mapping[str, str]) -> GuardedProcess:
    return GuardedProcess(
        [sys.executable, "-c", "from amplify_import import main; main()", "relay"],
        log_path=server.directory / "relay.log",
        env=store_environment(env, server.url),
        cwd=code_directory(),
    )


def _free_port_near(port: int) -> int:
    """Return this port if it is free, else any free port.

    Raises:
        FailedHereError: if there is none.

    """
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise FailedHereError("There is no free port for Flower.")


async def _show_lanes(server: EmbeddedServer, scenario: Scenario) -> None:
    """Print what the lanes have learned about the quotas, beside the real quotas."""
    async with open_views(settings_of(server.url)) as views:
        lanes = await views.lanes()
    click.echo("\nWhat the lanes learned about their quotas:")
    for lane in lanes:
        learned, quota = lane.start_budget, scenario.accounts[lane.account].quota
        if learned.rate.value and quota and quota.starts:
            burst = f", {learned.burst.value:.0f} at once" if learned.burst.value else ""
            click.echo(
                f"  {lane.name:20} {learned.rate.value:.1f} starts/s{burst};"
                f" the simulated API allows {quota.starts.rate:g}/s, {quota.starts.burst} at once"
            )


async def _show_events(server: EmbeddedServer) -> None:
    async with open_views(settings_of(server.url)) as views:
        entries = await views.events("0")
    click.echo(f"\nThe event stream imports:events; the first {EVENTS_SHOWN} ends of imports:")
    ends = [event for _, event in entries if event["data"].get("outcome")]
    for event in ends[:EVENTS_SHOWN]:
        click.echo(f"  {json.dumps(event)}")


async def _show_received(receiver: WebhookReceiver) -> None:
    """Print what the relay has delivered. The last events come a moment after the batch's end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DELIVERY_SECONDS):
            await receiver.until(lambda: _has_all(receiver))
    received = Counter(event["type"] for event in receiver.events.values())
    shown = ", ".join(f"{number} x {kind}" for kind, number in sorted(received.items()))
    click.echo("\nWhat the webhook receiver got from `amplify-import relay`:")
    click.echo(f"  {shown}.")
    verdict = "all had a valid signature" if not receiver.refused else "SOME HAD NO VALID SIGNATURE"
    click.echo(f"  {len(receiver.events)} events: {verdict}.")


def _has_all(receiver: WebhookReceiver) -> bool:
    """Return whether the batch's end has come, and as many ends of imports as it counts.

    Events are in order for each app environment, not among them.
    """
    events = receiver.events.values()
    ends = sum(1 for event in events if event["data"].get("outcome"))
    return any(
        event["type"] == EventType.BATCH_COMPLETED and event["data"]["total"] <= ends
        for event in events
    )


def _show_ledger(ledger: Mapping[str, Any]) -> None:
    """Print which calls the sandbox received, and whether it imported a target twice."""
    click.echo("\nWhat the sandbox saw (calls by status):")
    for operation, statuses in ledger["totals"].items():
        shown = ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
        click.echo(f"  {operation:20} {shown}")
    jobs = Counter(f"{job['account']}/{job['target']}" for job in ledger["jobs"])
    twice = [target for target, number in jobs.items() if number > 1]
    verdict = f"TWICE: {', '.join(twice)}" if twice else "none was imported twice"
    click.echo(f"  {sum(jobs.values())} jobs for {len(jobs)} targets: {verdict}.")
