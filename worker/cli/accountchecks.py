"""The checks of `doctor` that look at accounts: which workers accept, and their credentials."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from config.settings import REGION
from config.text import mask_text
from worker.cli.checks import Check, Verdict, judge
from worker.domain.accounts import is_among
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.aws import SOME_REGION, Aws
from worker.operations.http import CallFailedError
from worker.store.laneview import LaneView

ACCOUNTS_SHOWN: Final = 10
CREDENTIALS_SECONDS: Final = 10.0
CHECKED_AT_ONCE: Final = 20


def accepted_checks(accepted: Collection[str], lanes: Sequence[LaneView]) -> Iterator[Check]:
    """Yield which accounts workers accept; nothing if no worker has said so."""
    if not accepted:
        return
    detail = f"workers accept {len(accepted):,}: {_listed(sorted(accepted))}"
    yield Check("accounts", Verdict.OK, detail)
    busy = {lane.account for lane in lanes if lane.waiting or lane.running}
    if refused := sorted(name for name in busy if not is_among(name, accepted)):
        detail = f"imports wait for accounts that no worker accepts: {_listed(refused)}"
        remedy = "add their profiles to the workers' AWS configuration, or allow them in"
        yield Check("refused accounts", Verdict.WARN, detail, f"{remedy} IMPORTS_ACCOUNTS")


async def check_credentials(accounts: Collection[str]) -> list[Check]:
    """Check this machine's region, and its credentials of these accounts."""
    aws = Aws(CREDENTIALS_SECONDS, max_connections=1)
    turns = asyncio.Semaphore(CHECKED_AT_ONCE)

    async def check(account: str) -> Check:
        async with turns:
            return await _check_account(aws, account)

    try:
        return [_check_region(aws), *await asyncio.gather(*map(check, sorted(accounts)))]
    finally:
        await aws.close()


def _check_region(aws: Aws) -> Check:
    region = aws.region_of(DEFAULT_ACCOUNT)
    if region:
        remedy = "it must look like eu-central-1"
        return judge("region", region, well=bool(REGION.fullmatch(region)), remedy=remedy)
    remedy = "set AWS_REGION, unless every request names its region"
    return Check("region", Verdict.WARN, "none is configured", remedy)


async def _check_account(aws: Aws, account: str) -> Check:
    name = f"credentials of {account}"
    region = aws.region_of(account) or SOME_REGION
    try:
        return Check(name, Verdict.OK, f"found by {await aws.check(account, region)}")
    except CallFailedError as error:
        remedy = (
            "provide them in any way that AWS tools support (this shell was checked, no worker)"
            if account == DEFAULT_ACCOUNT
            else f"make the profile {account} work: aws sts get-caller-identity --profile {account}"
        )
        return Check(name, Verdict.FAIL, mask_text(error.answer.error), remedy)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - ACCOUNTS_SHOWN
    shown = ", ".join(names[:ACCOUNTS_SHOWN])
    return f"{shown} and {more:,} more" if more > 0 else shown
