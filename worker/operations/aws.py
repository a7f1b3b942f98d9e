"""Calls AWS with aioboto3: one client per account and region, no retries, bounded in time.

A retry of the SDK would start a second job behind our back, so there is none; the lane decides.
Whatever a call ends with, `Aws.call` turns it into a raw answer or into a `CallFailedError`.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, Final

import aioboto3
from botocore.exceptions import NoCredentialsError
from botocore.loaders import create_loader

from worker.domain.answers import Answer, Kind
from worker.domain.requests import DEFAULT_ACCOUNT, REGION_PATTERN
from worker.operations.failures import read_failure
from worker.operations.http import CLOCK_TOLERANCE_SECONDS, Response, clock_off, read
from worker.operations.sessions import AccountSession, ClientConfig
from worker.operations.transport import CallSession, Progress, progress_of_call

SERVICE: Final = "amplifybackend"
CONNECT_TIMEOUT_SECONDS: Final = 5.0
REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
SOME_REGION: Final = "us-east-1"
NOBODY: Final = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nobody"}


class CallFailedError(Exception):
    """No HTTP answer came back. `answer` says what that means."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.error)


class Aws:
    """The sessions and clients of one process. Use it from one event loop; close it there.

    A call takes `timeout_seconds` at most; what the other side has not acknowledged after
    `acknowledged_seconds` is not delivered any more. Sessions share one data loader: the service
    models, 8 MiB, are in memory once.
    """

    def __init__(
        self,
        timeout_seconds: float,
        max_connections: int,
        acknowledged_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._acknowledged_seconds = acknowledged_seconds
        self._config = ClientConfig(
            http_session_cls=partial(CallSession, acknowledged_seconds=acknowledged_seconds),
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=timeout_seconds,
            max_pool_connections=max_connections,
        )
        self._accounts: dict[str, _Account] = {}
        self._regions: dict[str, str] = {}
        self._clock = _ClockProof()

    async def call(
        self,
        account: str,
        region: str,
        method: str,
        params: Mapping[str, object],
        send_by: float = math.inf,
        answer_by: float = math.inf,
    ) -> Response:
        """Make one call and return the raw answer, whatever its status.

        A request with a body is not sent after `send_by` (`time.monotonic`, in seconds), nor after
        the time of the call, however long this process stood still before. It is given up at
        `answer_by` (the same clock).

        Raises:
            CallFailedError: when there is none: no credentials, no connection, no time, no sense.

        """
        end = min(answer_by, time.monotonic() + self.timeout_seconds)
        async with self._bounded(account, end, send_by) as (used, progress):
            client = await used.client(region, self._config)
            await getattr(client, method)(**params)
        if progress.response is None:
            raise CallFailedError(Answer(kind=Kind.UNKNOWN, error="the SDK showed no answer"))
        response = replace(progress.response, clock_is_right=self._clock.holds())
        self._clock.note(response)
        if response.status >= 400 and read(response).kind is Kind.CREDENTIALS:
            await self._forget(account, used)
        return response

    async def warm_up(self) -> None:
        """Load what the first call would load, and call nobody: that call is as quick as others.

        A slow first call reaches AWS closer to the next ones than it was granted before them.
        """
        with suppress(Exception):  # a configuration that can't be used: calls say so, one by one
            account = self._account(DEFAULT_ACCOUNT)
            async with account.session.client(
                SERVICE, region_name=SOME_REGION, config=self._config, **NOBODY
            ):
                pass

    def region_of(self, account: str) -> str:
        """Return the region that the environment or the account's profile names, else ''."""
        for name in REGION_VARIABLES:
            if region := os.environ.get(name, "").strip():
                return region
        if account in self._regions:
            return self._regions[account]
        region = ""
        with suppress(Exception):  # a configuration that can't be read names none
            region = (self._session(account).get_config_variable("region") or "").strip()
        if REGION_PATTERN.fullmatch(region):  # else the profile may have one when it is asked next
            self._regions[account] = region
        return region

    async def check(self, account: str, region: str) -> str:
        """Prepare a call without making it; return how the account's credentials are found.

        Raises:
            CallFailedError: when they are not, or no call could be sent with these settings.

        """
        end = time.monotonic() + self.timeout_seconds
        async with self._bounded(account, end) as (used, _):
            credentials = await used.session.get_credentials()
            if credentials is None:
                raise NoCredentialsError
            await credentials.get_frozen_credentials()
            await used.client(region, self._config)
        return str(credentials.method)

    async def close(self) -> None:
        """Close every client."""
        for account in self._accounts.values():
            await account.close()
        self._accounts.clear()

    @asynccontextmanager
    async def _bounded(
        self, account: str, end: float, send_by: float = math.inf
    ) -> AsyncIterator[tuple["_Account", Progress]]:
        """Lend an account's session for one call; translate everything that the SDK raises.

        An answer counts, whatever was raised behind it.
        """
        progress = Progress(send_by=min(send_by, end))
        progress_of_call.set(progress)
        used = None
        try:
            async with asyncio.timeout(end - time.monotonic()):
                used = self._account(account)
                async with used.lent():
                    yield used, progress
        except Exception as error:
            if progress.response is None:
                answer = read_failure(
                    error, progress, self.timeout_seconds, clock_is_right=self._clock.holds()
                )
                if used is not None and answer.kind is Kind.CREDENTIALS:
                    await self._forget(account, used)
                raise CallFailedError(answer) from error

    def _account(self, name: str) -> "_Account":
        if name not in self._accounts:
            self._accounts[name] = _Account(self._session(name))
        return self._accounts[name]

    def _session(self, account: str) -> AccountSession:
        profile = "" if account == DEFAULT_ACCOUNT else account
        return AccountSession(
            profile, _loader(os.environ.get("AWS_DATA_PATH")), self._acknowledged_seconds
        )

    async def _forget(self, name: str, used: "_Account") -> None:
        """Drop a session that did not work: the next call, a probe, reads everything anew."""
        if self._accounts.get(name) is used:
            del self._accounts[name]
            await used.retire()


@cache
def _loader(search_path: str | None) -> Any:
    return create_loader(search_path)


class _Account:
    """One account's session and its clients, one for each region."""

    def __init__(self, session: AccountSession) -> None:
        self.session = aioboto3.Session(botocore_session=session)
        self._clients: dict[str, Any] = {}
        self._exits = AsyncExitStack()
        # One for each account: credentials that hang hold up no others, and have one helper.
        self._opening = asyncio.Lock()
        self._users = 0
        self._is_retired = False

    async def client(self, region: str, config: ClientConfig) -> Any:
        if region not in self._clients:
            async with self._opening:
                if region not in self._clients:
                    opened = self.session.client(SERVICE, region_name=region, config=config)
                    self._clients[region] = await self._exits.enter_async_context(opened)
        return self._clients[region]

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._is_retired and not self._users:
                await self.close()

    async def retire(self) -> None:
        """Close it once nobody uses it any more: other calls may be on their way."""
        self._is_retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        await self._exits.aclose()


class _ClockProof:
    """Whether AWS has taken this machine's time since it was last set.

    Then an old `Date` of a refusal is that of something on the way, a cache or a proxy of one
    account, and no reason to stand down for all.
    """

    STEP_SECONDS: Final = 300 - CLOCK_TOLERANCE_SECONDS

    def __init__(self) -> None:
        self._offset = math.nan

    def note(self, response: Response) -> None:
        is_dated = "date" in response.headers
        if response.status == 200 and is_dated and not clock_off(response.headers, time.time()):
            self._offset = time.time() - time.monotonic()

    def holds(self) -> bool:
        return abs(time.time() - time.monotonic() - self._offset) < self.STEP_SECONDS
