"""`amplify-import doctor`: checks what an import needs, and says what to mend."""

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from config.logging import mask_text
from config.settings import REGION, Settings, SettingsError, load_settings
from worker.celery import app
from worker.cli.client import (
    BROKER_ERRORS,
    UnreachableError,
    broker_of,
    make_console,
    open_views,
    said_of,
)
from worker.cli.factlist import SUSPECTS_REMEDY
from worker.cli.progress import is_plain
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.aws import SOME_REGION, Aws, CallFailedError
from worker.store.laneview import LaneView
from worker.store.views import ServerFacts

OLDEST_VERSION: Final = (6, 2)
"""XAUTOCLAIM and ZADD LT came with Redis 6.2."""

PING_SECONDS: Final = 1.0
BROKER_SECONDS: Final = 3
CREDENTIALS_SECONDS: Final = 10.0
UNDECIDED_SHOWN: Final = 3


class Verdict(StrEnum):
    """How a check came out; a warning needs no mending for imports to work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `remedy` is what to do, '' where all is well."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""


@click.command()
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="Check this one too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(context: click.Context, accounts: Sequence[str], *, as_json: bool) -> None:
    """Check settings, store, broker, workers and AWS credentials.

    Ends with 1 when something must be mended. Secrets are never printed.
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
    except SettingsError as error:
        remedy = "correct it; the other checks need valid settings"
        return [Check("settings", Verdict.FAIL, str(error), remedy)]
    store, used = await _check_store(settings)
    configured = {name.rpartition("/")[0] for name in lanes}
    return [
        Check("settings", Verdict.OK, "valid"),
        *store,
        *await asyncio.to_thread(_check_broker),
        *await _check_aws({DEFAULT_ACCOUNT, *accounts, *configured, *used}),
    ]


async def _check_store(settings: Settings) -> tuple[list[Check], set[str]]:
    """Check the store; return the accounts of its lanes as well."""
    try:
        async with open_views(settings) as views:
            facts = await views.server()
            lanes = await views.lanes()
            undecided = [item.id async for page in views.undecided() for item in page]
    except (UnreachableError, SettingsError) as error:
        remedy = "start the server, or set IMPORTS_REDIS_URL to where it is"
        return [Check("store", Verdict.FAIL, str(error), remedy)], set()
    checks = [
        _reachable(settings, facts),
        *_server_checks(facts),
        *_failover_checks(facts),
        *_fact_checks(lanes, settings),
        *_undecided_checks(undecided),
    ]
    return checks, {lane.account for lane in lanes}


def _reachable(settings: Settings, facts: ServerFacts) -> Check:
    detail = f"{facts.name} {facts.version} at {mask_text(settings.redis_url)}"
    if facts.role != "master":
        return Check("store", Verdict.FAIL, f"{detail} is a {facts.role}", "connect to the primary")
    return Check("store", Verdict.OK, detail)


def _server_checks(facts: ServerFacts) -> list[Check]:
    """Judge what the server says about itself."""
    return [
        _judge(
            "version",
            f"{facts.name} {facts.version}",
            well=_version_of(facts.version) >= OLDEST_VERSION,
            remedy="use Redis 6.2 or later, or Valkey",
        ),
        _judge(
            "one node",
            "cluster mode is on" if facts.cluster else "cluster mode is off",
            well=not facts.cluster,
            remedy="use a server without cluster mode: a change of state touches many keys",
        ),
        _judge(
            "persistence",
            f"appendonly is {'on' if facts.appendonly else 'off'}, {facts.replicas} replicas",
            well=facts.appendonly,
            remedy="set appendonly yes: without it, a crash of the server loses imports",
            # Managed servers may not offer it: replicas then take its place, all but.
            otherwise=Verdict.WARN if facts.replicas else Verdict.FAIL,
        ),
        _judge(
            "eviction",
            f"maxmemory-policy is {facts.maxmemory_policy or 'not known'}",
            well=facts.maxmemory_policy == "noeviction" or not facts.maxmemory_bytes,
            remedy="set maxmemory-policy noeviction: the server may throw imports away",
        ),
    ]


def _failover_checks(facts: ServerFacts) -> list[Check]:
    """Judge whether somebody could take over, where Sentinels watch."""
    if not facts.primary:
        return []
    return [
        _judge(
            "failover",
            f"{facts.primary} is the primary, {facts.replicas} replicas",
            well=facts.replicas > 0,
            remedy="start a replica: there is none that could take over",
            otherwise=Verdict.WARN,
        )
    ]


def _fact_checks(lanes: Sequence[LaneView], settings: Settings) -> Iterator[Check]:
    """Judge whether settings fit what the lanes have shown of AWS."""
    final = settings.success_statuses | settings.failure_statuses
    for lane in lanes:
        if suspects := lane.facts.suspects - final:
            detail = f"jobs stay in {', '.join(sorted(suspects))} while others change"
            yield Check(f"statuses of {lane.name}", Verdict.WARN, detail, SUSPECTS_REMEDY)
        lag = lane.facts.list_lag_seconds or 0.0
        if lag > settings.settle_seconds:
            detail = f"a list did not show a job that was {lag:.0f} s old"
            remedy = f"set IMPORTS_SETTLE_SECONDS to {math.ceil(2 * lag)} or more"
            yield Check(f"job lists of {lane.name}", Verdict.WARN, detail, remedy)


def _undecided_checks(undecided: Sequence[str]) -> Iterator[Check]:
    if undecided:
        shown = ", ".join(undecided[:UNDECIDED_SHOWN])
        more = len(undecided) - UNDECIDED_SHOWN
        detail = f"{len(undecided):,} wait for a person: {shown}" + (
            f" and {more:,} more" if more > 0 else ""
        )
        remedy = "see amplify-import explain, then amplify-import resolve"
        yield Check("undecided imports", Verdict.FAIL, detail, remedy)


def _check_broker() -> list[Check]:
    remedy = "start the broker, or set IMPORTS_BROKER_URL to where it is"
    try:
        where = broker_of(app)
    except SettingsError as error:
        return [Check("broker", Verdict.FAIL, str(error), remedy)]
    try:
        with app.connection_for_write(connect_timeout=BROKER_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
        workers = app.control.ping(timeout=PING_SECONDS)
    except BROKER_ERRORS as error:
        return [Check("broker", Verdict.FAIL, f"{where} {said_of(error)}", remedy)]
    return [Check("broker", Verdict.OK, where), _judge_workers(workers or [])]


def _judge_workers(answers: Sequence[dict[str, Any]]) -> Check:
    names = sorted(name for answer in answers for name in answer)
    detail = f"{len(names)} answered: {', '.join(names)}" if names else "none answered"
    return _judge("workers", detail, well=bool(names), remedy="start one: celery -A worker worker")


async def _check_aws(accounts: set[str]) -> list[Check]:
    aws = Aws(CREDENTIALS_SECONDS, max_connections=1)
    try:
        return [
            _check_region(aws),
            *await asyncio.gather(*(_check_account(aws, name) for name in sorted(accounts))),
        ]
    finally:
        await aws.close()


def _check_region(aws: Aws) -> Check:
    region = aws.region_of(DEFAULT_ACCOUNT)
    if region:
        remedy = "it must look like eu-central-1"
        return _judge("region", region, well=bool(REGION.fullmatch(region)), remedy=remedy)
    remedy = "set AWS_REGION, unless every request names its region"
    return Check("region", Verdict.WARN, "none is configured", remedy)


async def _check_account(aws: Aws, account: str) -> Check:
    name = f"credentials of {account}"
    region = aws.region_of(account) or SOME_REGION
    try:
        return Check(name, Verdict.OK, f"found by {await aws.check(account, region)}")
    except CallFailedError as error:
        remedy = (
            "give them in any way that AWS tools read (this shell was asked, not the workers)"
            if account == DEFAULT_ACCOUNT
            else f"make the profile {account} work: aws sts get-caller-identity --profile {account}"
        )
        return Check(name, Verdict.FAIL, mask_text(error.answer.error), remedy)


def _judge(
    name: str, detail: str, *, well: bool, remedy: str, otherwise: Verdict = Verdict.FAIL
) -> Check:
    return Check(name, Verdict.OK, detail) if well else Check(name, otherwise, detail, remedy)


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
