"""A server that answers with given bytes and records requests."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Request:
    """A received request; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def access_key(self) -> str:
        """The id of the access key that signed it."""
        return self.headers["authorization"].partition("Credential=")[2].partition("/")[0]


def answer(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    """Return an answer as bytes. A keyword such as `retry_after` sets the header `retry-after`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = {
        "date": formatdate(usegmt=True),
        "content-type": "application/json",
        "content-length": str(len(body)),
        **given,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Any\r\n{head}\r\n".encode() + body


class WireServer:
    """Answers every request with `reply`.

    With `hang_up`, it closes the connection after each answer. `connections` are open.
    """

    def __init__(self, reply: bytes = b"", context: ssl.SSLContext | None = None) -> None:
        self.reply = reply or answer(200)
        self.requests: list[Request] = []
        self.hang_up = False
        self.delay_seconds = 0.0
        self.port = 0
        self.connections = 0
        self._context = context
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await _read(reader):
                self.requests.append(request)
                await asyncio.sleep(self.delay_seconds)
                writer.write(self.reply)
                await writer.drain()
                if self.hang_up:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has disconnected
        finally:
            self.connections -= 1
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    if not (line := await reader.readline()):
        return None
    method, path, _ = line.decode().split(" ")
    headers = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)
