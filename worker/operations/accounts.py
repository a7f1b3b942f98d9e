"""Which accounts a worker accepts: those that its operator allows, if it has their AWS profiles.

An account is a profile of the AWS configuration, or `default`, the ambient credentials. The
configuration is read again when it changes, so a new profile needs no restart.
"""

import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Final

from botocore.exceptions import BotoCoreError, ConfigNotFound

from worker.domain.accounts import Standing, is_among
from worker.domain.requests import ACCOUNT_PATTERN, DEFAULT_ACCOUNT
from worker.operations.files import (
    config_in,
    configuration_files,
    credentials_in,
    full_path,
    read_once,
)

ANY: Final = frozenset({"*"})
MOST_NAMED: Final = 5000
"""More accounts are not named one by one: a worker keeps telling the store which it accepts."""


class Accounts:
    """The accounts that this process accepts.

    `allowed` are the names and patterns that the operator allows; none of them: all accounts.
    """

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._allowed = frozenset(allowed) or ANY

    def is_allowed(self, account: str) -> bool:
        """Return whether the operator allows the account."""
        return is_among(account, self._allowed)

    def standing_of(self, account: str) -> Standing:
        """Return what is known of an account. If the configuration can't be read, it is accepted.

        Nothing would be proved against the account then; its calls will report the defect.
        """
        if not self.is_allowed(account):
            return Standing.FORBIDDEN
        profiles = _profiles()
        if account == DEFAULT_ACCOUNT or profiles is None or account in profiles:
            return Standing.ACCEPTED
        return Standing.UNKNOWN

    def accepted(self) -> frozenset[str]:
        """Return the accounts that are accepted, as names, or as patterns if it is not certain."""
        profiles = _profiles()
        if profiles is None or len(profiles) > MOST_NAMED:
            return self._allowed
        return frozenset(filter(self.is_allowed, {*profiles, DEFAULT_ACCOUNT}))


def _profiles() -> frozenset[str] | None:
    """Return the profiles that requests can name; None if the configuration can't be read."""
    files = configuration_files()
    if any(map(_is_unreadable, files)):
        return None
    try:
        return read_once("names", files, partial(_names_in, *files))
    except BotoCoreError:
        return None


def _names_in(config: str, credentials: str) -> frozenset[str]:
    names: set[str] = set()
    with suppress(ConfigNotFound):
        names.update(config_in(config)["profiles"])
    with suppress(ConfigNotFound):
        names.update(credentials_in(credentials))
    return frozenset(filter(ACCOUNT_PATTERN.fullmatch, names))


def _is_unreadable(path: str) -> bool:
    """Return whether a file can't be read. botocore would take it for an empty one."""
    full = full_path(path)
    try:
        os.stat(full)  # noqa: PTH116 - its errors differ, and Path.exists hides them
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return not os.access(full, os.R_OK)
