"""Accounts: the owner of an access key, the state of its credentials, and its quota."""

from worker.sandbox.api import forbidden
from worker.sandbox.quota import Limiter
from worker.sandbox.scenario import Account, Credentials, Quota, Scenario


class Accounts:
    """The scenario's accounts. An access key that it does not list is an account of its own."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._names = {a.access_key_id: name for name, a in scenario.accounts.items()}
        self._credentials = {name: a.credentials for name, a in scenario.accounts.items()}
        self._limiters: dict[tuple[str, str], Limiter] = {}

    def name_of(self, access_key_id: str) -> str:
        """Return the name of the account that an access key belongs to."""
        return self._names.get(access_key_id, access_key_id)

    def check_credentials(self, account: str, action: str) -> None:
        """Raise the 403 of an account that is unknown, or whose credentials expired or are denied.

        `action` is the name of what the call does, as in a policy.

        Raises:
            ApiError: the answer 403.

        """
        if self._scenario.require_known_accounts and account not in self._scenario.accounts:
            message = "The security token included in the request is invalid."
            raise forbidden("UnrecognizedClientException", message)
        credentials = self._credentials.get(account, Credentials.OK)
        if credentials is Credentials.EXPIRED:
            message = "The security token included in the request is expired"
            raise forbidden("ExpiredTokenException", message)
        if credentials is Credentials.DENIED:
            message = f"{account} is not authorized to perform: {action}"
            raise forbidden("AccessDeniedException", message)

    def set_credentials(self, account: str, credentials: Credentials) -> None:
        """Change the state of an account's credentials, from the next call on."""
        self._credentials[account] = credentials

    def limiter(self, account: str, region: str) -> Limiter:
        """Return the limiter of an account in a region."""
        lane = (account, region)
        if lane not in self._limiters:
            self._limiters[lane] = Limiter.of(self._quota(account))
        return self._limiters[lane]

    def _quota(self, account: str) -> Quota:
        known: Account | None = self._scenario.accounts.get(account)
        return known.quota if known and known.quota else self._scenario.quota
