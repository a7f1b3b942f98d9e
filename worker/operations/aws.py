"""Calls AWS with aioboto3: one client per account and region, no retries, bounded in time.

A retry of the SDK would start a second job behind our back, so there is none; the lane decides.
Answers are taken raw, before botocore parses them (see `worker.operations.http`).
"""

import asyncio
import math
import os
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from worker.domain.answers import Answer, Kind
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.http import Response, clock_off

SERVICE: Final = "amplifybackend"
CONNECT_TIMEOUT_SECONDS: Final = 5.0

_CREDENTIAL_ERRORS: Final = (
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

_kept_response: ContextVar[list[Response]] = ContextVar("kept_response")
_sent: ContextVar[list[bool]] = ContextVar("sent")
_send_by: ContextVar[float] = ContextVar("send_by")


class CallFailedError(Exception):
    """No HTTP answer came back. `answer` says what that means."""

    def __init__(self, kind: Kind, error: BaseException) -> None:
        name = type(error).__name__
        self.answer = Answer(kind=kind, error=f"{name}: {error}"[:300] if str(error) else name)
        super().__init__(self.answer.error)


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
        self._config = AioConfig(
            http_session_cls=partial(_PunctualSession, acknowledged_seconds=acknowledged_seconds),
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=timeout_seconds,
            max_pool_connections=max_connections,
        )
        self._base = AioSession()
        self._sessions: dict[str, aioboto3.Session] = {}
        self._clients: dict[tuple[str, str], Any] = {}
        self._exits = AsyncExitStack()
        self._opening: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def call(
        self,
        account: str,
        region: str,
        method: str,
        params: Mapping[str, object],
        send_by: float = math.inf,
    ) -> Response:
        """Make one call and return the raw answer, whatever its status.

        A request with a body is not sent after `send_by` (`time.monotonic`, in seconds), nor after
        the time of the call, however long this process stood still before.

        Raises:
            CallFailedError: when there is none: no credentials, no connection, no time, no sense.

        """
        kept: list[Response] = []
        sent: list[bool] = []
        _kept_response.set(kept)
        _sent.set(sent)
        try:
            async with asyncio.timeout(self.timeout_seconds):
                _send_by.set(min(send_by, time.monotonic() + self.timeout_seconds))
                client = await self._client(account, region)
                await getattr(client, method)(**params)
        except _CREDENTIAL_ERRORS as error:
            raise CallFailedError(Kind.CREDENTIALS, error) from error
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            # botocore raises this for a reset after the request was sent as well: it is a doubt.
            raise CallFailedError(Kind.UNREACHABLE, error) from error
        except ClientError as error:
            if not kept:  # an answer of STS or SSO: the role could not be assumed
                headers = error.response["ResponseMetadata"]["HTTPHeaders"]
                kind = Kind.CLOCK if clock_off(headers, time.time()) else Kind.CREDENTIALS
                raise CallFailedError(kind, error) from error
        except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if not kept:
                # Before anything was sent, only credentials can have failed, in any way they like.
                kind = Kind.UNKNOWN if sent else Kind.CREDENTIALS
                raise CallFailedError(kind, error) from error
        return kept[-1]

    async def warm_up(self) -> None:
        """Load what the first call would load, and call nobody: that call is as quick as others.

        A slow first call reaches AWS closer to the next ones than it was granted before them.
        """
        nobody = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nobody"}
        with suppress(BotoCoreError):  # a configuration that can't be read: calls will say so
            session = self._session(DEFAULT_ACCOUNT)
            async with session.client(SERVICE, region_name="us-east-1", **nobody):
                pass

    def region_of(self, account: str) -> str:
        """Return the region that the environment or the account's profile names, else ''."""
        if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            return region
        try:
            return self._session(account).region_name or ""
        except BotoCoreError:
            return ""

    async def check_credentials(self, account: str) -> str:
        """Return how the account's credentials are found.

        Raises:
            CallFailedError: when they are not.

        """
        try:
            async with asyncio.timeout(self.timeout_seconds):
                credentials = await self._session(account).get_credentials()
                if credentials is None:
                    raise NoCredentialsError
                await credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError, TimeoutError, OSError) as error:
            raise CallFailedError(Kind.CREDENTIALS, error) from error
        return str(credentials.method)

    async def close(self) -> None:
        """Close every client."""
        await self._exits.aclose()

    async def _client(self, account: str, region: str) -> Any:
        key = (account, region)
        if key not in self._clients:
            # A lock for each: credentials that hang must not hold up other accounts.
            async with self._opening[key]:
                if key not in self._clients:
                    opened = self._session(account).client(
                        SERVICE, region_name=region, config=self._config
                    )
                    client = await self._exits.enter_async_context(opened)
                    client.meta.events.register(f"before-send.{SERVICE}.*", _note_sending)
                    client.meta.events.register(f"before-parse.{SERVICE}.*", _keep_response)
                    self._clients[key] = client
        return self._clients[key]

    def _session(self, account: str) -> aioboto3.Session:
        session = self._sessions.get(account)
        if session is None:
            profile = None if account == DEFAULT_ACCOUNT else account
            base = AioSession(profile=profile)
            base.register_component("data_loader", self._base.get_component("data_loader"))
            session = self._sessions[account] = aioboto3.Session(botocore_session=base)
        return session


class _PunctualSession(AIOHTTPSession):  # type: ignore[misc]  # it publishes no annotations
    """Sends no request whose time is over.

    A process that stood still between signing and sending goes on where it stopped: over a
    connection that is open, the request would be out before the event loop looks at its timers,
    with nobody holding its claim any more.

    Nor does the kernel: left alone, it goes on for minutes to send what the other side has not
    acknowledged, also over connections that were closed meanwhile.
    """

    def __init__(
        self, *, acknowledged_seconds: float, connector_args: Mapping[str, object], **more: Any
    ) -> None:
        make_socket = partial(_socket, acknowledged_seconds)
        super().__init__(connector_args={**connector_args, "socket_factory": make_socket}, **more)

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        opened = proxy_url in self._sessions
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        if not opened:
            trace = aiohttp.TraceConfig()
            trace.on_request_chunk_sent.append(_refuse_late)  # awaited right before the write
            trace.freeze()
            session.trace_configs.append(trace)
        return session


def _socket(acknowledged_seconds: float, address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket whose data is acknowledged in time, or dropped with its connection.

    By `TCP_USER_TIMEOUT` (RFC 5482), where the system has it; others keep their own time-outs.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = math.ceil(acknowledged_seconds * 1000)  # 0 is the system's default
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return made


async def _refuse_late(*_: object) -> None:
    if time.monotonic() >= _send_by.get():
        raise TimeoutError("the time of the call was over before it was sent")


def _note_sending(**_: Any) -> None:
    _sent.get().append(True)


def _keep_response(response_dict: Mapping[str, Any], **_: Any) -> None:
    headers = {name.lower(): value for name, value in response_dict["headers"].items()}
    _kept_response.get().append(
        Response(response_dict["status_code"], headers, response_dict["body"], time.time())
    )
