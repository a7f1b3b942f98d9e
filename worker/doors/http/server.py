"""The HTTP server: its paths, and how it starts and stops."""

import asyncio
import time
from http import HTTPStatus
from typing import Any, Final, Self

import structlog
from aiohttp import hdrs, web

from config.settings import Settings
from worker.client import AsyncImportClient, StoreUnavailableError
from worker.contract.openapi import openapi_document
from worker.doors.http.access import OPEN_PATHS, Access
from worker.doors.http.bodies import MAX_BODY_BYTES
from worker.doors.http.problems import Handler, answer_problems, identifier_in
from worker.doors.http.requests import Intake
from worker.doors.http.streams import BatchStreams
from worker.metrics import http_catalogue as of
from worker.metrics.catalogue import OTHER
from worker.metrics.registry import Recorder, recorder_of_process

log = structlog.get_logger()

READY_SECONDS: Final = 5.0
SHUTDOWN_SECONDS: Final = 30.0
"""How long requests in progress may take when the server stops."""


class HttpServer:
    """Serves HTTP while its `async with` block runs. Port 0 means any free port.

    `recorder` takes its measurements. Entering the block raises OSError if it can't listen there.
    """

    def __init__(
        self,
        settings: Settings,
        client: AsyncImportClient,
        host: str,
        port: int,
        recorder: Recorder | None = None,
    ) -> None:
        self._client = client
        self._recorder = recorder or recorder_of_process()
        self._host = host
        self._port = port
        self.streams = BatchStreams(client)
        """The event streams that are open."""
        self._access = Access(settings.http_tokens, settings.http_rate)
        self._is_stopping = False
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            auto_decompress=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_stopping = True
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """The URL at which it listens, without a trailing slash."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._runner.addresses[0][1]}"

    def _application(self) -> web.Application:
        app = web.Application(
            middlewares=[self._note_access, answer_problems, self._access.check],
            client_max_size=MAX_BODY_BYTES,
        )
        app.add_routes(
            [
                web.post("/v1/imports", Intake(self._client).post),
                web.get("/v1/imports/{importId}", self._get_import),
                web.get("/v1/batches/{batchId}", self._get_batch),
                web.get("/v1/batches/{batchId}/events", self.streams.send, allow_head=False),
                web.get("/openapi.json", self._get_openapi),
                web.get("/livez", self._get_livez),
                web.get("/readyz", self._get_readyz),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._end_streams)
        return app

    @web.middleware
    async def _note_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log and count each request when it is over, but no probe and no header."""
        began, status = time.perf_counter(), 0
        try:
            response = await handler(request)
            status = response.status
        finally:
            if request.path not in OPEN_PATHS:
                self._note(request, status, time.perf_counter() - began)
        return response

    def _note(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource else OTHER
        self._recorder.add(of.ANSWERS, 1, route, str(status or "none"))
        if not route.endswith("/events"):
            self._recorder.add(of.ANSWER_SECONDS, seconds, route)
        log.info(
            "http.answered",
            method=request.method,
            path=request.path,
            status=status or None,
            seconds=round(seconds, 4),
            client=request.remote,
        )

    async def _get_import(self, request: web.Request) -> web.Response:
        item = await self._client.get(identifier_in(request, "importId"))
        return web.json_response(item.as_json())

    async def _get_batch(self, request: web.Request) -> web.Response:
        counts = await self._client.batch(identifier_in(request, "batchId"))
        return web.json_response(counts.as_json())

    async def _get_openapi(self, _: web.Request) -> web.Response:
        return web.json_response(openapi_document())

    async def _get_livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_readyz(self, _: web.Request) -> web.Response:
        reason = await self._why_not_ready()
        if reason:
            return web.Response(text=f"{reason}\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        return web.Response(text="ok\n")

    async def _why_not_ready(self) -> str:
        if self._is_stopping:
            return "server: is stopping"
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._client.ping()
        except StoreUnavailableError:
            return "store: can't be reached"
        except TimeoutError:
            return f"store: no answer within {READY_SECONDS:g} s"
        return ""

    async def _end_streams(self, _: Any) -> None:
        self.streams.close()


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "amplify-import-worker"
    if request.path not in OPEN_PATHS:
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
