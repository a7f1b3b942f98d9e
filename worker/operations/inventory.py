"""Lists the app environments of an account, and what each has for authentication. It only reads.

The SDK repeats these calls when AWS throttles them: unlike an import, they may be made twice.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from config.text import mask_text
from worker.operations.http import one_line
from worker.operations.sessions import AccountSession
from worker.operations.transport import Progress, progress_of_call

CONCURRENT: Final = 8
ATTEMPTS: Final = 8
ANSWER_SECONDS: Final = 30.0
_GONE: Final = "NotFoundException"


class Auth(StrEnum):
    """What an app environment has for authentication."""

    NONE = "none"
    IMPORTED = "imported"
    MANAGED = "managed"
    """Amplify created it, so no user pool can be imported beside it."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Environment:
    """One backend environment of an app."""

    app_id: str
    app_name: str
    name: str
    auth: Auth


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about one app, and the calls that failed: what was asked, and why not."""

    environments: Sequence[Environment]
    problems: Sequence[str] = ()


class InventoryError(Exception):
    """AWS did not answer what was asked. The text says what was asked, and the reason."""


class Inventory:
    """Lists what an account has in a region.

    Use it with `async with`, which raises what the SDK raises if the account can't be used.
    """

    def __init__(self, account: str, region: str) -> None:
        session = AccountSession(account, ANSWER_SECONDS)
        self._session = aioboto3.Session(botocore_session=session)
        self._region = region
        self._exits = AsyncExitStack()
        self._apps: Any
        self._backends: Any

    async def __aenter__(self) -> Self:
        progress_of_call.set(Progress())
        config = AioConfig(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            read_timeout=ANSWER_SECONDS,
            max_pool_connections=CONCURRENT,
        )
        try:
            self._apps, self._backends = [
                await self._exits.enter_async_context(
                    self._session.client(service, region_name=self._region, config=config)
                )
                for service in ("amplify", "amplifybackend")
            ]
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def apps(self) -> AsyncIterator[Found]:
        """Yield what is found out about each app, in the order of AWS's list.

        Raises:
            InventoryError: if AWS does not list the apps.

        """
        async for apps in self._pages(self._apps, "list_apps", "apps"):
            for found in await _in_parallel(self._find, apps):
                yield found

    async def _find(self, app: Mapping[str, Any]) -> Found:
        names: list[str] = []
        method = "list_backend_environments"
        try:
            async for page in self._pages(
                self._apps, method, "backendEnvironments", appId=app["appId"]
            ):
                names += [environment["environmentName"] for environment in page]
        except InventoryError as error:
            return Found([], [str(error)])
        environments, problems = [], []
        for name in names:
            auth = Auth.UNKNOWN
            try:
                auth = await self._auth(app["appId"], name)
            except InventoryError as error:
                problems.append(str(error))
            environments.append(Environment(app["appId"], app.get("name", ""), name, auth))
        return Found(environments, problems)

    async def _auth(self, app_id: str, environment: str) -> Auth:
        try:
            answer = await self._call(
                self._backends, "get_backend", AppId=app_id, BackendEnvironmentName=environment
            )
        except _GoneError:
            return Auth.UNKNOWN
        return auth_in(answer.get("AmplifyMetaConfig") or "")

    async def _pages(
        self, client: Any, method: str, member: str, **params: Any
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        token = None
        while True:
            more: Mapping[str, str] = {"nextToken": token} if token else {}
            try:
                answer = await self._call(client, method, **params, **more)
            except _GoneError:  # the app was deleted after it had been listed
                return
            yield answer.get(member) or []
            following = answer.get("nextToken")
            if not following or following == token:
                return
            token = following

    async def _call(self, client: Any, method: str, **params: Any) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = await getattr(client, method)(**params)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == _GONE:
                raise _GoneError from error
            raise _failed(method, params, error) from error
        except Exception as error:
            raise _failed(method, params, error) from error
        return answer


class _GoneError(Exception):
    """AWS answered that what was asked for does not exist."""


def _failed(method: str, params: Mapping[str, Any], error: Exception) -> InventoryError:
    about = "/".join(value for name, value in params.items() if name != "nextToken")
    asked = f"{method} {about}".strip()
    reason = one_line(mask_text(str(error))) or type(error).__name__
    return InventoryError(f"{asked}: {reason}")


def auth_in(meta: str) -> Auth:
    """Return what the text of an `amplify-meta.json` says about authentication.

    Its member `auth` has one member per resource. An imported one has the `serviceType` "imported".
    """
    try:
        resources = json.loads(meta).get("auth", {})
        kinds = [resource.get("serviceType") for resource in resources.values()]
    except (ValueError, AttributeError):
        return Auth.UNKNOWN
    if not kinds:
        return Auth.NONE
    return Auth.IMPORTED if "imported" in kinds else Auth.MANAGED


async def _in_parallel(
    find: Callable[[Mapping[str, Any]], Awaitable[Found]], apps: Sequence[Mapping[str, Any]]
) -> list[Found]:
    limit = asyncio.Semaphore(CONCURRENT)

    async def limited(app: Mapping[str, Any]) -> Found:
        async with limit:
            return await find(app)

    return await asyncio.gather(*map(limited, apps))
