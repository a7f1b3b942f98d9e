"""The regions of rows that name none, by this machine's AWS configuration."""

from collections.abc import Iterable

from worker.cli.accounts import account_of
from worker.cli.batchfile import Row
from worker.cli.client import BadInputError
from worker.operations.aws import Aws


def default_regions(rows: Iterable[Row]) -> dict[str, str]:
    """Return the region of each account that a row without a region has; '' if it has none."""
    aws = Aws(timeout_seconds=1.0, max_connections=1)
    accounts = {account_of(row) for row in rows if "region" not in row.members}
    return {account: aws.region_of(account) for account in sorted(accounts)}


def check_regions(rows: Iterable[Row]) -> None:
    """Refuse rows without a region if their account has none: a worker would reject each of them.

    Raises:
        BadInputError: naming the first such account.

    """
    for account, region in default_regions(rows).items():
        if not region:
            raise BadInputError(
                f"No region for account {account}: set AWS_REGION, give its profile one, or add a"
                " column region. Nothing was imported."
            )
