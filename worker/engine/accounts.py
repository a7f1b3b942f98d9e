"""Refuses requests of accounts that may not be used."""

from collections.abc import Collection, Mapping
from typing import Protocol

from worker.domain.accounts import NO_WORKER_ACCEPTS, Standing, is_among, refusal_of
from worker.engine.ports import Accounts, AdmissionStore


class Refusals(Protocol):
    """Decides which accounts are refused."""

    async def refusals(self, names: Collection[str]) -> Mapping[str, str]:
        """Return the accounts of these that are refused, each with the reason."""
        ...


class AccountCheck:
    """Decides by this worker's configuration, and asks the store if it lacks a profile.

    While a profile is being added or a file is being written, another worker may know more.
    """

    def __init__(self, accounts: Accounts, store: AdmissionStore) -> None:
        self._accounts = accounts
        self._store = store

    async def refusals(self, names: Collection[str]) -> Mapping[str, str]:
        """Return the accounts of these that are refused, each with the reason."""
        standings = {name: self._accounts.standing_of(name) for name in names}
        refused = {
            name: standing
            for name, standing in standings.items()
            if standing is not Standing.ACCEPTED
        }
        if Standing.UNKNOWN in refused.values():
            known = await self._store.accepted_accounts()
            refused = {
                name: standing
                for name, standing in refused.items()
                if standing is Standing.FORBIDDEN or not is_among(name, known)
            }
        return {name: refusal_of(name, standing) for name, standing in refused.items()}


class WorkersCheck:
    """Decides by what the running workers say, for processes that make no calls to AWS.

    If no worker has said which accounts it accepts, all are accepted.
    """

    def __init__(self, store: AdmissionStore) -> None:
        self._store = store

    async def refusals(self, names: Collection[str]) -> Mapping[str, str]:
        """Return the accounts of these that are refused, each with the reason."""
        known = await self._store.accepted_accounts()
        if not known:
            return {}
        return {name: NO_WORKER_ACCEPTS.format(name) for name in names if not is_among(name, known)}
