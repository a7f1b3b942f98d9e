"""Describes Cognito's user pools, app clients and identity pools. It only reads.

Many imports use the same pools, so each description is kept for a while. Calls are paced, because
the quotas are those of the account, and its applications need them, too.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic.alias_generators import to_pascal

from worker.domain.answers import Answer, Kind
from worker.domain.preflight import Place
from worker.operations.http import CallFailedError, error_code, one_line, read

if TYPE_CHECKING:
    from worker.operations.aws import Aws  # importing it takes longer than a command may take

T = TypeVar("T")

USER_POOLS: Final = "cognito-idp"
IDENTITY_POOLS: Final = "cognito-identity"

CALLS_PER_SECOND: Final = 10.0
"""The most calls per second of a process to one method, in an account and region.

Cognito allows 15 a second to `DescribeUserPool`, and as many to `DescribeUserPoolClient`, by all
callers of the account in the region, and 5 a second for each pool. Source: "Quotas in Amazon
Cognito", Amazon Cognito Developer Guide, categories UserPoolRead and UserPoolClientRead.
"""

MOST_KEPT: Final = 10_000
BACK_OFF_SECONDS: Final = 1.0
BACK_OFF_MAX_SECONDS: Final = 30.0
ATTEMPTS: Final = 4
"""How many calls without a usable answer are made before a description counts as unavailable.
Throttled calls don't count."""

_MISSING: Final = "ResourceNotFoundException"
_OAUTH: Final = (
    "AllowedOAuthFlows",
    "AllowedOAuthFlowsUserPoolClient",
    "AllowedOAuthScopes",
    "CallbackURLs",
    "LogoutURLs",
    "SupportedIdentityProviders",
)


@dataclass(frozen=True, slots=True)
class AppClient:
    """An app client: whether it has a secret, and its OAuth settings by their API names."""

    has_secret: bool
    oauth: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class IdentityPool:
    """An identity pool: its app clients, as (name of the provider, client id), and its roles."""

    clients: frozenset[tuple[str, str]]
    roles: frozenset[str]


class UnavailableError(Exception):
    """Cognito did not say what was asked. The text says why, and is the same for a whole place."""


class Cognito:
    """Describes what is in Cognito. One object serves all accounts and regions of a process.

    A description is None if what it is about does not exist. It is kept for `kept_seconds`, as is a
    refusal, which stands for the method's whole account and region. Methods raise UnavailableError.
    """

    def __init__(
        self,
        aws: "Aws",
        kept_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._aws = aws
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._kept: dict[tuple[object, ...], tuple[asyncio.Task[Any], float]] = {}
        self._refused: dict[tuple[Place, str], tuple[str, float]] = {}
        self._paces: dict[tuple[Place, str], _Pace] = {}

    async def has_user_pool(self, place: Place, pool_id: str) -> bool:
        """Return whether a user pool exists."""
        return await self._describe(place, "describe_user_pool", bool, UserPoolId=pool_id)

    async def app_client(self, place: Place, pool_id: str, client_id: str) -> AppClient | None:
        """Describe an app client of a user pool."""
        method = "describe_user_pool_client"
        return await self._describe(
            place, method, _app_client, UserPoolId=pool_id, ClientId=client_id
        )

    async def identity_pool(self, place: Place, pool_id: str) -> IdentityPool | None:
        """Describe an identity pool."""
        clients = await self._describe(
            place, "describe_identity_pool", _clients, IdentityPoolId=pool_id
        )
        if clients is None:
            return None
        roles = await self._describe(
            place, "get_identity_pool_roles", _roles, IdentityPoolId=pool_id
        )
        return IdentityPool(clients, roles)

    async def _describe(
        self, place: Place, method: str, read_it: Callable[[Any], T], **params: str
    ) -> T:
        """Return a description that is kept, or that another caller waits for, or a new one."""
        key = (place, method, *params.values())
        task, until = self._kept.get(key, (None, -math.inf))
        if task is None or until < self._clock():
            task = asyncio.create_task(self._ask(place, method, read_it, params))
            task.add_done_callback(lambda done: self._forget_failure(key, done))
            self._keep(key, task)
        return await asyncio.shield(task)  # others may wait for it when this caller gives up

    def _keep(self, key: tuple[object, ...], task: "asyncio.Task[Any]") -> None:
        self._kept.pop(key, None)
        self._kept[key] = (task, self._clock() + self._kept_seconds)
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def _forget_failure(self, key: tuple[object, ...], done: "asyncio.Task[Any]") -> None:
        if done.cancelled() or done.exception():
            self._kept.pop(key, None)

    async def _ask(
        self, place: Place, method: str, read_it: Callable[[Any], T], params: Mapping[str, str]
    ) -> T:
        pace = self._paces.setdefault((place, method), _Pace(self._clock))
        failures = 0
        while True:
            await pace.turn()
            self._raise_refusal(place, method)
            answer, found = await self._call(place, method, params)
            match answer.kind:
                case Kind.OK | Kind.NOT_FOUND:
                    pace.go_on()
                    return read_it(found)
                case Kind.BAD_REQUEST | Kind.CONFLICT:
                    raise UnavailableError(f"{place}: {answer.error}")
                case Kind.CREDENTIALS | Kind.CLOCK:
                    self._refuse(place, method, answer.error)
                case Kind.THROTTLED:
                    pace.back_off()
                case _:
                    failures += 1
                    if failures == ATTEMPTS:
                        self._refuse(place, method, answer.error)
                    pace.back_off()

    def _refuse(self, place: Place, method: str, error: str) -> None:
        self._refused[place, method] = (error, self._clock() + self._kept_seconds)
        self._raise_refusal(place, method)

    def _raise_refusal(self, place: Place, method: str) -> None:
        error, until = self._refused.get((place, method), ("", -math.inf))
        if until >= self._clock():
            raise UnavailableError(f"{place}: {permission_of(method)}: {error}")

    async def _call(
        self, place: Place, method: str, params: Mapping[str, str]
    ) -> tuple[Answer, Mapping[str, Any] | None]:
        """Make one call; return what the answer means, and its members."""
        try:
            response = await self._aws.call(
                place.account, place.region, method, params, service=_service_of(method)
            )
        except CallFailedError as failure:
            return failure.answer, None
        if error_code(response) == _MISSING:
            return Answer(kind=Kind.NOT_FOUND), None
        answer = read(response)
        if answer.kind is not Kind.OK:
            return answer, None
        try:
            return answer, dict(json.loads(response.body))
        except (ValueError, TypeError) as error:
            return Answer(kind=Kind.UNKNOWN, error=one_line(str(error))), None


class _Pace:
    """Spaces the calls to one method, in an account and region."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_at = -math.inf
        self._back_off_seconds = 0.0

    async def turn(self) -> None:
        """Wait for the turn of a call."""
        at = max(self._next_at, self._clock())
        self._next_at = at + 1 / CALLS_PER_SECOND
        await asyncio.sleep(at - self._clock())

    def back_off(self) -> None:
        """Delay the next calls, each time for twice as long."""
        doubled = max(BACK_OFF_SECONDS, self._back_off_seconds * 2)
        self._back_off_seconds = min(doubled, BACK_OFF_MAX_SECONDS)
        self._next_at = max(self._next_at, self._clock() + self._back_off_seconds)

    def go_on(self) -> None:
        """End the delays: a call was answered."""
        self._back_off_seconds = 0.0


def permission_of(method: str) -> str:
    """Return the IAM action that permits a method, such as `cognito-idp:DescribeUserPool`."""
    return f"{_service_of(method)}:{to_pascal(method)}"


def _service_of(method: str) -> str:
    return IDENTITY_POOLS if "identity_pool" in method else USER_POOLS


def _app_client(found: Any) -> AppClient | None:
    """Read an app client. Its secret is not kept."""
    if found is None:
        return None
    client = found["UserPoolClient"]
    oauth = {name: _as_set(client.get(name)) for name in _OAUTH}
    return AppClient(bool(client.get("ClientSecret")), oauth)


def _as_set(value: Any) -> frozenset[str]:
    """Return a setting as a set of texts: AWS gives a list, a truth value, or nothing."""
    if isinstance(value, list):
        return frozenset(map(str, value))
    return frozenset({"true"}) if value else frozenset()


def _clients(found: Any) -> frozenset[tuple[str, str]] | None:
    if found is None:
        return None
    providers = found.get("CognitoIdentityProviders") or []
    return frozenset((each.get("ProviderName", ""), each.get("ClientId", "")) for each in providers)


def _roles(found: Any) -> frozenset[str]:
    return frozenset(((found or {}).get("Roles") or {}).keys())
