"""The HTTP door in this process, and what clients send to it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import ClientResponse, ClientSession
from pydantic import SecretStr

from config.settings import Settings
from worker.client import AsyncImportClient
from worker.doors.http.server import HttpServer

TOKEN: Final = "a-token"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream of server-sent events."""

    event: str
    data: dict[str, Any]
    id: str = ""


@dataclass(slots=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Any
    text: str
    content_type: str
    json: Any = field(init=False)

    def __post_init__(self) -> None:
        is_json = self.text and self.content_type.endswith("json")
        self.json = json.loads(self.text) if is_json else None


class Door:
    """A client of the door. Paths are relative to its URL; requests carry the token."""

    def __init__(self, server: HttpServer, session: ClientSession) -> None:
        self.server = server
        self.session = session
        self.url = server.url

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Make one request, and read its answer."""
        async with self.session.request(method, self.url + path, **options) as response:
            text = await response.text()
            return Answer(response.status, response.headers, text, response.content_type)

    async def post(self, body: object, **headers: str) -> Answer:
        """Submit a body, which is JSON unless it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        return await self.ask("POST", "/v1/imports", data=data, headers=headers)

    async def stream(self, batch_id: str, last: str = "") -> ClientResponse:
        """Open the stream of a batch's events. Close the response."""
        headers = {"Last-Event-ID": last} if last else {}
        path = f"{self.url}/v1/batches/{batch_id}/events"
        return await self.session.get(path, headers=headers)


async def messages(response: ClientResponse) -> AsyncIterator[Message]:
    """Yield the messages of a stream as they come in, without comments."""
    fields: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            yield Message(fields["event"], json.loads(fields["data"]), fields.get("id", ""))
            fields = {}
        else:
            fields = {}


@asynccontextmanager
async def serving(
    store_url: str, tokens: str = TOKEN, rate: float = 10_000, headers: Any = None
) -> AsyncIterator[Door]:
    """Serve the door in this process."""
    settings = Settings(http_token=SecretStr(tokens), http_rate=rate)
    async with (
        AsyncImportClient(store_url) as client,
        HttpServer(settings, client, "127.0.0.1", 0) as server,
        ClientSession(headers=BEARER if headers is None else headers) as session,
    ):
        yield Door(server, session)
