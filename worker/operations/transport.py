"""Sends each request once, in time, to the host for which it was made; and notes its progress.

Nothing here reads an answer. The progress of a call is kept in `Progress`, whatever the SDK does
with the call: its parser may fail on a body, and its exceptions don't distinguish a reset after
sending from a connection that never existed.
"""

import math
import socket
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.httpsession import get_cert_path

from worker.operations.files import context_trusting
from worker.operations.http import Response

CREDENTIALS: Final = "to find the account's credentials"


@dataclass(slots=True)
class Progress:
    """How far one call came. `stage` names, for people, what it is doing or failed at."""

    send_by: float = math.inf
    stage: str = CREDENTIALS
    begun: bool = False
    sent: bool = False
    too_late: bool = False
    response: Response | None = None


progress_of_call: ContextVar[Progress] = ContextVar("progress_of_call")


class PunctualSession(AIOHTTPSession):  # type: ignore[misc]  # it publishes no annotations
    """Sends each request once, and none whose time is over.

    If the process is frozen between signing and sending, it continues there. Over an open
    connection it would send the request before the event loop looks at its timers, when the claim
    may have ended. Here the time is checked right before the write.

    The kernel would also send too late: by default it tries for minutes to deliver data that the
    other side has not acknowledged, even if the connection was closed meanwhile.
    """

    def __init__(
        self, *, acknowledged_seconds: float, connector_args: Mapping[str, object], **more: Any
    ) -> None:
        make_socket = partial(_socket, acknowledged_seconds)
        super().__init__(connector_args={**connector_args, "socket_factory": make_socket}, **more)

    async def _get_session(self, proxy_url: str | None) -> "_OneRequest":
        opened = proxy_url in self._sessions
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        if not opened:
            # A request that aiohttp repeats over a new connection would be a call without a permit.
            session._retry_connection = False  # noqa: SLF001 - it has no option for that
            session.trace_configs.append(self._trace())
        return _OneRequest(session)

    def _create_connector(self, proxy_url: str | None) -> aiohttp.TCPConnector:
        if proxy_url or self._cert_file or not self._verify:
            connector: aiohttp.TCPConnector = super()._create_connector(proxy_url)
            return connector
        # The same without a TLS context of its own, which would be most of a client's memory.
        return aiohttp.TCPConnector(
            limit=self._max_pool_connections,
            ssl=context_trusting(get_cert_path(self._verify)),
            **self._connector_args,
        )

    def _setup_proxy_ssl_context(self, proxy_url: str) -> Any:
        # Without it, the SDK would not verify the server's certificate behind a proxy.
        return super()._setup_proxy_ssl_context(proxy_url) or self._get_ssl_context()

    def _trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()
        trace.on_request_chunk_sent.append(_refuse_late)  # awaited right before the write
        trace.freeze()
        return trace


class CallSession(PunctualSession):
    """Carries the calls to the API (not those for credentials) and notes how far each came."""

    async def send(self, request: Any) -> Any:
        """Send a request, and keep its raw answer."""
        progress = progress_of_call.get()
        progress.begun, progress.stage = True, "to connect"
        answer = await super().send(request)
        if (head := progress.response) is not None:
            body = await answer.content
            progress.response = Response(head.status, head.headers, body, time.time())
        return answer

    def _trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sending_without_a_body)
        trace.on_request_chunk_sent.append(_refuse_late)
        trace.on_request_chunk_sent.append(_note_sending)
        trace.on_request_end.append(_keep_head)
        trace.freeze()
        return trace


class _OneRequest:
    """An aiohttp session for the SDK that follows no redirects.

    Following a redirect would send the import, or the session's token, to another host.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **more: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, allow_redirects=False, **more)


def _socket(acknowledged_seconds: float, address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket whose data is acknowledged in time or dropped with its connection.

    It uses `TCP_USER_TIMEOUT` (RFC 5482) if the system has it. Other systems keep their own
    timeouts.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = math.ceil(acknowledged_seconds * 1000)  # 0 would mean the system's default
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return made


async def _refuse_late(*_: object) -> None:
    progress = progress_of_call.get()
    if time.monotonic() >= progress.send_by:
        progress.too_late = True
        raise TimeoutError("the time of the call was over before it was sent")


async def _note_sending(*_: object) -> None:
    progress = progress_of_call.get()
    progress.sent, progress.stage = True, "for an answer"


async def _note_sending_without_a_body(
    session: object, context: object, sent: aiohttp.TraceRequestHeadersSentParams
) -> None:
    if sent.method == "GET":
        await _note_sending(session, context, sent)


async def _keep_head(_: object, __: object, end: aiohttp.TraceRequestEndParams) -> None:
    """Keep an answer whose body may never arrive: its status is enough to decide."""
    headers = {name.lower(): value for name, value in end.response.headers.items()}
    progress_of_call.get().response = Response(
        end.response.status, headers, b"", time.time(), cut_off=True
    )
