"""Which accounts requests may name, and why an account is refused."""

from collections.abc import Collection
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

NO_WORKER_ACCEPTS: Final = (
    "no worker accepts {}; amplify-import doctor lists the accounts they accept"
)
"""Why an account is refused by a process that is no worker."""


class Standing(StrEnum):
    """What a worker knows of an account."""

    ACCEPTED = "accepted"
    FORBIDDEN = "forbidden"  # the operator does not allow it
    UNKNOWN = "unknown"  # this worker has no AWS profile of that name; another one may


def is_among(account: str, names: Collection[str]) -> bool:
    """Return whether the account is among `names`, which may be patterns such as `customer-*`."""
    return account in names or any(fnmatchcase(account, name) for name in names)


def refusal_of(account: str, standing: Standing) -> str:
    """Return why the account is refused and what to do; '' if it is not."""
    match standing:
        case Standing.FORBIDDEN:
            return f"the workers' IMPORTS_ACCOUNTS does not allow {account}; add it to that setting"
        case Standing.UNKNOWN:
            return f"no worker has an AWS profile {account}; add it to the workers' configuration"
        case _:
            return ""
