"""Checks the accounts that a batch file names, before any of its rows is sent."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

import click

from config.settings import Settings
from worker.cli.batchfile import BatchFile, Problem, Row
from worker.cli.client import UnreachableError, open_views
from worker.domain.accounts import NO_WORKER_ACCEPTS, Standing, is_among
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.accounts import Accounts

ACCOUNT: Final = "account"
STORE_SECONDS: Final = 5.0

OF_THIS_MACHINE: Final = {
    Standing.FORBIDDEN: "IMPORTS_ACCOUNTS does not allow {}; add it to that setting",
    Standing.UNKNOWN: "there is no AWS profile {}; see aws configure list-profiles",
    Standing.ACCEPTED: "",
}


def account_of(row: Row) -> str:
    """Return the account of a row."""
    return str(row.members.get(ACCOUNT, DEFAULT_ACCOUNT))


def check_by_configuration(
    batch: BatchFile, settings: Settings, *, with_profiles: bool
) -> BatchFile:
    """Return the file with its rows of accounts that this machine's workers would refuse as bad.

    Without profiles, only `IMPORTS_ACCOUNTS` counts.
    """
    accounts = Accounts(settings.accounts)

    def refusal_of(account: str) -> str:
        standing = accounts.standing_of(account)
        if standing is Standing.UNKNOWN and not with_profiles:
            return ""
        return OF_THIS_MACHINE[standing].format(account)

    return _check(batch, refusal_of)


def check_by_workers(batch: BatchFile, settings: Settings) -> BatchFile:
    """Return the file with its rows of accounts that no running worker accepts as bad rows.

    If the store can't be asked, or no worker has said which accounts it accepts, the rows stay:
    workers check them, too.
    """
    accepted = asyncio.run(_accepted(settings))
    if not accepted:
        return batch
    return _check(batch, lambda name: _refusal_of(name, accepted))


async def _accepted(settings: Settings) -> frozenset[str]:
    try:
        async with asyncio.timeout(STORE_SECONDS), open_views(settings) as views:
            return await views.accepted_accounts()
    except (UnreachableError, TimeoutError) as error:
        reason = str(error) or f"The store did not answer within {STORE_SECONDS:g} s."
        if settings.celery_broker_url != settings.redis_url:  # otherwise nothing can be sent either
            click.echo(f"The accounts were not checked, workers will do it: {reason}", err=True)
        return frozenset()


def _refusal_of(account: str, accepted: Collection[str]) -> str:
    if is_among(account, accepted):
        return ""
    return NO_WORKER_ACCEPTS.format(account)


def _check(batch: BatchFile, refusal_of: Callable[[str], str]) -> BatchFile:
    refusals = {name: refusal_of(name) for name in {account_of(row) for row in batch.rows}}
    refused = [
        Problem(row.line, ACCOUNT, refusal, shared=True)
        for row in batch.rows
        if (refusal := refusals[account_of(row)])
    ]
    kept = [row for row in batch.rows if not refusals[account_of(row)]]
    problems = sorted([*batch.problems, *refused], key=lambda problem: problem.line)
    return replace(batch, rows=kept, problems=problems)
