"""Calls AWS with aioboto3: one client per account and region, no retries, limited time.

A retry by the SDK could start a second job unnoticed, so the SDK makes none; the worker decides
about retries. `Aws.call` turns the result of a call into a raw answer or a `CallFailedError`.
"""

import asyncio
import math
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import aioboto3
from botocore.exceptions import NoCredentialsError

from worker.domain.accounts import Standing, refusal_of
from worker.domain.answers import Answer, Kind
from worker.domain.requests import DEFAULT_ACCOUNT, REGION_PATTERN
from worker.operations.client import Client
from worker.operations.failures import read_failure
from worker.operations.http import (
    ACCESS_DENIED,
    CLOCK_TOLERANCE_SECONDS,
    CallFailedError,
    Response,
    clock_off,
    error_code,
    read,
)
from worker.operations.sessions import AccountSession, ClientConfig
from worker.operations.transport import CallSession, Progress, progress_of_call

SERVICE: Final = "amplifybackend"
CONNECT_TIMEOUT_SECONDS: Final = 5.0
REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
SOME_REGION: Final = "us-east-1"
MAX_OPEN_ACCOUNTS: Final = 250
"""Of so many accounts, clients stay open. A client takes 0.2 MB and 10 ms of CPU to open. More
accounts keep only their session with its credentials, so that no role is assumed again."""

NOBODY: Final = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nobody"}

OnCall = Callable[[str, str, str, int, float], None]
"""Takes the account, the region, the method, the HTTP status (0: no answer) and the duration in
seconds of a call. It returns at once and never raises."""


def _ignore(*_: object) -> None: ...


def _allow(_: str) -> bool:
    return True


class Aws:
    """The sessions and clients of one process. Use and close it in one event loop.

    A call takes at most `timeout_seconds`. Data that the other side has not acknowledged after
    `acknowledged_seconds` is not delivered any more. The sessions share one data loader, so that
    the service models (8 MiB) are in memory only once. `on_call` is called after each call.
    No call is made with an account that is not allowed.
    """

    def __init__(
        self,
        timeout_seconds: float,
        max_connections: int,
        acknowledged_seconds: float = CONNECT_TIMEOUT_SECONDS,
        on_call: OnCall = _ignore,
        is_allowed: Callable[[str], bool] = _allow,
    ) -> None:
        self._on_call = on_call
        self._is_allowed = is_allowed
        self.timeout_seconds = timeout_seconds
        self._acknowledged_seconds = acknowledged_seconds
        self._config = ClientConfig(
            http_session_cls=partial(CallSession, acknowledged_seconds=acknowledged_seconds),
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=timeout_seconds,
            max_pool_connections=max_connections,
            parameter_validation=False,  # requests are valid already
        )
        self._accounts: dict[str, _Account] = {}
        self._open: OrderedDict[str, _Account] = OrderedDict()
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
        service: str = SERVICE,
    ) -> Response:
        """Make one call and return the raw answer, whatever its status.

        A request with a body is not sent after `send_by` (`time.monotonic`, in seconds), nor after
        the time for the call, even if this process was frozen in between. The call is given up at
        `answer_by` (same clock).

        Raises:
            CallFailedError: if there is no answer: no credentials, no connection, no time,
            unreadable.

        """
        began, status = time.perf_counter(), 0
        at = (account, region, service)
        try:
            response = await self._make_call(at, method, params, send_by, answer_by)
            status = response.status
        finally:
            if service == SERVICE:
                self._on_call(account, region, method, status, time.perf_counter() - began)
        return response

    async def _make_call(
        self,
        at: tuple[str, str, str],
        method: str,
        params: Mapping[str, object],
        send_by: float,
        answer_by: float,
    ) -> Response:
        account, region, service = at
        end = min(answer_by, time.monotonic() + self.timeout_seconds)
        async with self._bounded(account, end, send_by) as (used, progress):
            client = await self._client(account, used, region, service)
            await client.send(method, params)
        if progress.response is None:
            raise CallFailedError(Answer(kind=Kind.UNKNOWN, error="the SDK showed no answer"))
        response = replace(progress.response, clock_is_right=self._clock.holds())
        self._clock.note(response)
        is_refusal = response.status >= 400 and read(response).kind is Kind.CREDENTIALS
        # a permission for another service may be missing while the session is fine
        if is_refusal and (service == SERVICE or error_code(response) != ACCESS_DENIED):
            await self._forget(account, used)
        return response

    async def warm_up(self) -> None:
        """Load everything that the first call needs, without a call, so that it is not slower.

        A slow first call would reach AWS closer to the following calls than they were granted.
        """
        with suppress(Exception):  # if the configuration can't be used, each call reports it
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
        with suppress(Exception):  # an unreadable configuration names no region
            region = (self._session(account).get_config_variable("region") or "").strip()
        if REGION_PATTERN.fullmatch(region):  # otherwise the profile may name one next time
            self._regions[account] = region
        return region

    async def check(self, account: str, region: str) -> str:
        """Prepare a call without making it; return how the account's credentials are found.

        Raises:
            CallFailedError: if there are none, or no call could be sent with these settings.

        """
        end = time.monotonic() + self.timeout_seconds
        async with self._bounded(account, end) as (used, _):
            credentials = await used.session.get_credentials()
            if credentials is None:
                raise NoCredentialsError
            await credentials.get_frozen_credentials()
            await self._client(account, used, region)
        return str(credentials.method)

    async def close(self) -> None:
        """Close every client."""
        for account in self._accounts.values():
            await account.close()
        self._accounts.clear()
        self._open.clear()

    @asynccontextmanager
    async def _bounded(
        self, account: str, end: float, send_by: float = math.inf
    ) -> AsyncIterator[tuple["_Account", Progress]]:
        """Lend an account's session for one call; translate everything that the SDK raises.

        If an answer came, it counts, whatever the SDK raises afterwards.
        """
        progress = Progress(send_by=min(send_by, end))
        progress_of_call.set(progress)
        used = None
        if not self._is_allowed(account):
            error = refusal_of(account, Standing.FORBIDDEN)
            raise CallFailedError(Answer(kind=Kind.CREDENTIALS, error=error))
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

    async def _client(
        self, name: str, used: "_Account", region: str, service: str = SERVICE
    ) -> Client:
        """Return the account's client, and close those of the account that was idle longest."""
        client = await used.client(region, self._config, service)
        if self._accounts.get(name) is used:  # otherwise it was forgotten meanwhile
            self._open[name] = used
            self._open.move_to_end(name)
        if len(self._open) > MAX_OPEN_ACCOUNTS:
            idle = (each for each, account in self._open.items() if not account.is_lent)
            if (longest := next(idle, None)) is not None:
                await self._open.pop(longest).close()
        return client

    def _account(self, name: str) -> "_Account":
        if name not in self._accounts:
            self._accounts[name] = _Account(self._session(name))
        return self._accounts[name]

    def _session(self, account: str) -> AccountSession:
        return AccountSession(account, self._acknowledged_seconds)

    async def _forget(self, name: str, used: "_Account") -> None:
        """Drop a session that failed. The next call, a probe, reads the configuration anew."""
        if self._accounts.get(name) is used:
            del self._accounts[name]
            self._open.pop(name, None)
            await used.retire()


class _Account:
    """One account's session and its clients, one per region and service."""

    def __init__(self, session: AccountSession) -> None:
        self.session = aioboto3.Session(botocore_session=session)
        self._clients: dict[tuple[str, str], Client] = {}
        self._exits = AsyncExitStack()
        # Each account has a lock: if its credentials hang, no other account waits, and only one
        # helper process runs.
        self._opening = asyncio.Lock()
        self._users = 0
        self._is_retired = False

    async def client(self, region: str, config: ClientConfig, service: str = SERVICE) -> Client:
        key = (region, service)
        if key not in self._clients:
            async with self._opening:
                if key not in self._clients:
                    self._clients[key] = await self._open(region, service, config)
        return self._clients[key]

    async def _open(self, region: str, service: str, config: ClientConfig) -> Client:
        transports: list[CallSession] = []

        def keep(**options: Any) -> CallSession:
            transports.append(config.http_session_cls(**options))
            return transports[-1]

        keeping = config.merge(ClientConfig(http_session_cls=keep))
        opened = self.session.client(service, region_name=region, config=keeping)
        return Client(await self._exits.enter_async_context(opened), *transports)

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
        """Close the session once nothing uses it; other calls may be in progress."""
        self._is_retired = True
        if not self._users:
            await self.close()

    @property
    def is_lent(self) -> bool:
        """Whether a call is in progress."""
        return self._users > 0

    async def close(self) -> None:
        """Close the clients. Later calls open new ones; the session keeps its credentials."""
        exits, self._exits = self._exits, AsyncExitStack()
        self._clients.clear()
        await exits.aclose()


class _ClockProof:
    """Whether AWS has accepted this machine's time since the clock was last set.

    In that case, an old `Date` in a refusal comes from something on the way, such as a cache or one
    account's proxy. It is no reason to stand down for all accounts.
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
