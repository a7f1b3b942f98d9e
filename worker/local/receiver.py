"""A webhook receiver in this process, as a team would write one. It checks every signature."""

import asyncio
import base64
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from aiohttp import web

from worker.relay.signature import PREFIX, key_of, signed_headers

PATH: Final = "/events"
KEY_BYTES: Final = 32


class WebhookReceiver:
    """Receives events on a free port of 127.0.0.1 while its `async with` block runs.

    An event that comes again has the same id, so `events` has it once.
    """

    def __init__(self) -> None:
        self.events: dict[str, Mapping[str, Any]] = {}
        """The events with a valid signature, by id, in the order in which they came."""
        self.refused = 0
        """How many messages had no valid signature."""
        self._changed = asyncio.Condition()
        self._secret = PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        self._runner: web.AppRunner

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post(PATH, self._receive)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings with which a relay sends events here."""
        host, port = self._runner.addresses[0][:2]
        return {
            "IMPORTS_WEBHOOK_URL": f"http://{host}:{port}{PATH}",
            "IMPORTS_WEBHOOK_SECRET": self._secret,
            "IMPORTS_WEBHOOK_ALLOW_PRIVATE": "true",
        }

    async def until(self, is_enough: Callable[[], bool]) -> None:
        """Return as soon as `is_enough`, which is asked after each event."""
        async with self._changed:
            await self._changed.wait_for(is_enough)

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not self._is_signed(request.headers, body):
            self.refused += 1
            return web.Response(status=401)
        event = json.loads(body)
        async with self._changed:
            self.events.setdefault(event["id"], event)
            self._changed.notify_all()
        return web.Response(status=204)

    def _is_signed(self, headers: Mapping[str, str], body: bytes) -> bool:
        message, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not timestamp.isdecimal():
            return False
        expected = signed_headers(message, int(timestamp), body, [key_of(self._secret)])
        given = headers.get("webhook-signature", "")
        return hmac.compare_digest(given.encode(), expected["webhook-signature"].encode())
