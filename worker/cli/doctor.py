"""`amplify-import doctor`: checks everything that imports need, and says what to fix."""

import asyncio
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Final

import click
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError
from rich.console import Console
from rich.text import Text

from config.servers import is_cluster, server_of
from config.settings import Settings, SettingsError, load_settings
from config.text import mask_text
from worker.celery import app
from worker.cli.accountchecks import accepted_checks, check_credentials
from worker.cli.brokerchecks import (
    check_broker_mode,
    check_metrics_port,
    check_queues,
    judge_workers,
)
from worker.cli.checks import Check, Verdict, advice_on, failed, in_thread, judge, within
from worker.cli.client import (
    UnreachableError,
    make_console,
    open_store,
)
from worker.cli.factlist import fact_checks, undecided_checks
from worker.cli.progress import is_plain
from worker.cli.queuechecks import NAME as QUEUE
from worker.cli.queuechecks import check_queue
from worker.cli.sending import BROKER_ERRORS, broker_of
from worker.cli.sinkchecks import check_sinks
from worker.cli.storechecks import check_clock, check_events, check_memory
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.relay.sinksfile import read_sinks
from worker.store.broker import about_channels
from worker.store.connection import StoreUnavailableError
from worker.store.keys import PREFIX, name_on
from worker.store.permissions import missing_permissions
from worker.store.serverview import ServerFacts
from worker.store.views import ImportViews

OLDEST_VERSION: Final = (6, 2)
"""The oldest usable version: XAUTOCLAIM and ZADD LT need Redis 6.2."""

PING_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 3
STORE_SECONDS: Final = 10.0
BROKER_SECONDS: Final = 10.0
QUEUE_SECONDS: Final = 15.0

START_STORE: Final = "start the server, or set IMPORTS_REDIS_URL to where it is"
START_BROKER: Final = "start the broker, or set IMPORTS_BROKER_URL to where it is"
START_QUEUE: Final = "let this machine reach it, or correct IMPORTS_SQS_REQUESTS_URL"
NO_KEY: Final = f"{PREFIX}nothing"


@click.command()
@click.option(
    "--account", "accounts", multiple=True, metavar="NAME", help="Also check this account."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(context: click.Context, accounts: Sequence[str], *, as_json: bool) -> None:
    """Check settings, store, broker, workers and AWS credentials.

    Credentials are those of this machine and environment, not those of the workers. Workers say
    themselves which accounts they accept. No call is made to the Amplify API. Exits with 1 if it
    finds a problem. It never prints secrets.
    """
    checks = asyncio.run(_examine(accounts))
    well = all(check.verdict is not Verdict.FAIL for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": well, "checks": [asdict(check) for check in checks]}))
    else:
        _print(checks)
    context.exit(0 if well else 1)


async def _examine(accounts: Sequence[str]) -> list[Check]:
    try:
        settings = load_settings()
        lanes = settings.lanes
        sinks = read_sinks(settings)
    except SettingsError as error:
        remedy = "fix it; the other checks need valid settings"
        return [Check("settings", Verdict.FAIL, str(error), remedy)]
    used: set[str] = set()
    store = await within(STORE_SECONDS, "store", _check_store(settings, used, sinks), START_STORE)
    broker = await within(BROKER_SECONDS, "broker", in_thread(_check_broker), START_BROKER)
    configured = {name.rpartition("/")[0] for name in lanes}
    aws = await check_credentials({DEFAULT_ACCOUNT, *accounts, *configured, *used})
    queue = await within(QUEUE_SECONDS, QUEUE, check_queue(settings), START_QUEUE)
    port = await asyncio.to_thread(check_metrics_port, settings)
    return [Check("settings", Verdict.OK, "valid"), *store, *broker, *queue, *port, *aws]


async def _check_store(settings: Settings, used: set[str], sinks: Collection[str]) -> list[Check]:
    """Check the store; add the accounts of its lanes to `used`."""
    try:
        async with open_store(settings) as redis:
            views = ImportViews(redis)
            return [
                *await _ask_server(settings.redis_url, views),
                *await _check_permissions(redis, server_of(settings.redis_url).db),
                *await _check_writes(redis),
                *await _check_lanes(views, used, settings),
                *await check_clock(views),
                *await check_events(redis, settings),
                *await check_sinks(redis, sinks),
            ]
    except (UnreachableError, SettingsError) as error:
        message = str(error)
        return [Check("store", Verdict.FAIL, message, advice_on(message, START_STORE))]


async def _ask_server(url: str, views: ImportViews) -> list[Check]:
    where = mask_text(url)
    try:
        facts = await views.server()
    except ResponseError as error:
        unknown = failed("server", "INFO is", error, "let this user run it", Verdict.WARN)
        return [Check("store", Verdict.OK, where), unknown]
    return [
        _reachable(where, facts),
        *_server_checks(facts, in_cluster=is_cluster(url)),
        *check_memory(facts),
        *_failover_checks(facts),
    ]


async def _check_permissions(redis: "Redis", db: int) -> list[Check]:
    """Return a check for each kind of permission that the store's user lacks."""
    try:
        missing = await missing_permissions(redis, db)
    except StoreUnavailableError as error:
        if not isinstance(error.__cause__, ResponseError):
            raise
        return [failed("permissions", "a script is", error.__cause__, "let this user run scripts")]
    found = (
        ("commands", missing.commands, Verdict.FAIL),
        ("keys", missing.keys, Verdict.FAIL),
        ("channels", missing.channels, Verdict.WARN),
    )
    checks = []
    for kind, names, verdict in found:
        if names:
            message = f"no permission to use {', '.join(names)}"
            checks.append(Check(kind, verdict, message, advice_on(message, "")))
    return checks


async def _check_writes(redis: "Redis") -> list[Check]:
    """Return a failed check if the server refuses writes.

    The write that is tried changes nothing, as its key does not exist.
    """
    try:
        await redis.set(name_on(redis, NO_KEY), "", xx=True)
    except ResponseError as error:
        return [failed("writes", "a write is", error, "read the server's log")]
    return []


async def _check_lanes(views: ImportViews, used: set[str], settings: Settings) -> list[Check]:
    try:
        lanes = await views.lanes()
        accepted = await views.accepted_accounts()
        undecided = [item.id async for page in views.undecided() for item in page]
    except ResponseError as error:
        return [failed("lanes", "a reading is", error, "read the server's log")]
    used.update(lane.account for lane in lanes)
    return [
        *accepted_checks(accepted, lanes),
        *fact_checks(lanes, settings),
        *undecided_checks(undecided),
    ]


def _reachable(where: str, facts: ServerFacts) -> Check:
    detail = f"{facts.name} {facts.version} at {where}"
    if facts.role != "master":
        return Check("store", Verdict.FAIL, f"{detail} is a {facts.role}", "connect to the primary")
    return Check("store", Verdict.OK, detail)


def _server_checks(facts: ServerFacts, *, in_cluster: bool) -> list[Check]:
    """Check what the server reports about itself."""
    return [
        judge(
            "version",
            f"{facts.name} {facts.version}",
            well=_version_of(facts.version) >= OLDEST_VERSION,
            remedy="use Redis 6.2 or later, or Valkey",
        ),
        judge(
            "cluster mode",
            "on" if facts.cluster else "off",
            well=facts.cluster == in_cluster,
            remedy="begin IMPORTS_REDIS_URL with redis+cluster:// or rediss+cluster://",
        ),
        judge(
            "persistence",
            f"appendonly is {'on' if facts.appendonly else 'off'}, {facts.replicas} replicas",
            well=facts.appendonly,
            remedy="set appendonly yes: without it, a crash of the server loses imports",
            # Managed servers may not offer it. Replicas then protect the data almost as well.
            otherwise=Verdict.WARN if facts.replicas else Verdict.FAIL,
        ),
        judge(
            "eviction",
            f"maxmemory-policy is {facts.maxmemory_policy or 'not known'}",
            well=facts.maxmemory_policy == "noeviction" or not facts.maxmemory_bytes,
            remedy="set maxmemory-policy noeviction: otherwise the server may delete imports",
        ),
    ]


def _failover_checks(facts: ServerFacts) -> list[Check]:
    """With Sentinels or in a cluster, check that there is a replica that could take over."""
    if not facts.primary:
        return []
    return [
        judge(
            "failover",
            f"{facts.primary} is the primary, {facts.replicas} replicas",
            well=facts.replicas > 0,
            remedy="start a replica: none could take over",
            otherwise=Verdict.WARN,
        )
    ]


def _check_broker() -> list[Check]:
    try:
        where = broker_of(app)
    except SettingsError as error:
        return [Check("broker", Verdict.FAIL, str(error), START_BROKER)]
    well = Check("broker", Verdict.OK, where)
    try:
        with app.connection_for_write(connect_timeout=CONNECT_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_SECONDS)
            if clustered := check_broker_mode(where, connection):
                return clustered
            queues = check_queues(app, connection)
        workers = app.control.broadcast("stats", reply=True, timeout=PING_SECONDS)
    except BROKER_ERRORS as error:
        cause = error.__cause__ if isinstance(error, OperationalError) else error
        if isinstance(cause, NoPermissionError) and about_channels(str(cause)):
            return [well, failed("workers", "remote control is", cause, "", Verdict.WARN)]
        return [failed("broker", where, cause or error, START_BROKER)]
    return [well, *queues, *judge_workers(workers or [])]


def _version_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


_MARKS: Final = {
    Verdict.OK: ("✓", "green"),
    Verdict.WARN: ("!", "yellow"),
    Verdict.FAIL: ("✗", "red"),
}


def _print(checks: Sequence[Check]) -> None:
    console = make_console()
    for check in checks:
        console.print(_line(check, console), soft_wrap=True)


def _line(check: Check, console: Console) -> Text:
    mark, style = _MARKS[check.verdict]
    plain = is_plain(console) or not console.encoding.startswith("utf")
    text = Text(f"{check.verdict:4}" if plain else mark, style=style)
    text.append(f" {check.name}: {check.detail}", style="default")
    if check.remedy:
        text.append(f"\n{'':{5 if plain else 2}}{check.remedy}", style="default")
    return text
