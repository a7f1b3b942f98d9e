"""The HTTP server: the routes of the published API, and routes to control the sandbox."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from worker.sandbox import wire
from worker.sandbox.api import Operation
from worker.sandbox.delivery import deliver
from worker.sandbox.inventory import Inventory
from worker.sandbox.ledger import Ledger
from worker.sandbox.loader import ScenarioError, parse_model
from worker.sandbox.scenario import Credentials, Scenario, ScriptedTarget
from worker.sandbox.simulation import Arrival, Simulation

_log = structlog.get_logger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# AWS documents the paths with the prefix /prod; botocore calls them without it.
_PREFIXES = ("", "/prod")
_ROUTES = (
    ("POST", "/backend/{app}/auth/{environment}/import", Operation.IMPORT_BACKEND_AUTH),
    ("POST", "/backend/{app}/auth/{environment}/details", Operation.GET_BACKEND_AUTH),
    ("POST", "/backend/{app}/storage/{environment}/import", Operation.IMPORT_BACKEND_STORAGE),
    ("POST", "/backend/{app}/storage/{environment}/details", Operation.GET_BACKEND_STORAGE),
    ("POST", "/backend/{app}/job/{environment}", Operation.LIST_BACKEND_JOBS),
    ("GET", "/backend/{app}/job/{environment}/{job}", Operation.GET_BACKEND_JOB),
)
# The server does not wait for hanging calls when it stops.
_SHUTDOWN_SECONDS = 0.1


class _CredentialsChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    credentials: Credentials


class SandboxServer:
    """Serves a scenario while its `async with` block runs. Port 0 means any free port.

    Entering the block raises OSError if the server can't listen on the address.
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        log_calls: bool = False,
    ) -> None:
        self.scenario = scenario or Scenario()
        self._host = host
        self._port = port
        self._log_calls = log_calls
        self._simulation: Simulation
        self._runner: web.AppRunner

    async def __aenter__(self) -> Self:
        self.reset()
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,  # a hanging call ends when its client disconnects
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """The endpoint URL for an SDK, without a trailing slash."""
        return f"http://{self._host}:{self._runner.addresses[0][1]}"

    @property
    def ledger(self) -> Ledger:
        """The ledger since the start or the last reset."""
        return self._simulation.ledger

    def snapshot(self, target: str | None = None) -> dict[str, Any]:
        """Return the ledger of all targets, or of one (`app/environment`), as its endpoint does."""
        return self.ledger.to_json(self._simulation.clock.now(), target)

    def reset(self, scenario: Scenario | None = None) -> None:
        """Start over, with another scenario if given. Open calls end in the old simulation."""
        self.scenario = scenario or self.scenario
        self._simulation = Simulation(self.scenario)

    def script(self, target: ScriptedTarget) -> None:
        """Script a target from its next call on. This replaces an earlier script."""
        self._simulation.targets.script(target)

    def set_credentials(self, account: str, credentials: Credentials) -> None:
        """Change the state of an account's credentials, from the next call on."""
        self._simulation.accounts.set_credentials(account, credentials)

    def _application(self) -> web.Application:
        application = web.Application()
        router = application.router
        for prefix in _PREFIXES:
            for method, path, operation in _ROUTES:
                router.add_route(method, prefix + path, partial(self._serve, operation))
                router.add_route("OPTIONS", prefix + path, _preflight)
            router.add_post(prefix + "/backend/{app}/details", self._get_backend)
        router.add_get("/apps", self._list_apps)
        router.add_get("/apps/{app}/backendenvironments", self._list_environments)
        router.add_get("/sandbox/health", self._health)
        router.add_get("/sandbox/ledger", self._show_ledger)
        router.add_post("/sandbox/reset", _checked(self._reset))
        router.add_post("/sandbox/targets", _checked(self._script))
        router.add_post("/sandbox/accounts/{name}", _checked(self._change_account))
        return application

    async def _serve(self, operation: Operation, request: web.Request) -> web.StreamResponse:
        simulation = self._simulation
        arrival = Arrival(
            operation,
            app_id=request.match_info["app"],
            environment=request.match_info["environment"],
            job_id=request.match_info.get("job"),
            authorization=request.headers.get("Authorization"),
            signed_at=request.headers.get("X-Amz-Date"),
        )
        call = simulation.receive(arrival)
        try:
            reply = simulation.handle(call, arrival, await request.read())
            return await deliver(request, call, reply, simulation.scenario.fault_settings)
        finally:
            simulation.ledger.close(call)
            if self._log_calls:
                _log.info("sandbox.call_served", **call.to_json())

    async def _list_apps(self, request: web.Request) -> web.Response:
        return Inventory(self._simulation).list_apps(request)

    async def _list_environments(self, request: web.Request) -> web.Response:
        return Inventory(self._simulation).list_environments(request)

    async def _get_backend(self, request: web.Request) -> web.Response:
        return Inventory(self._simulation).get_backend(request, await request.read())

    async def _health(self, _request: web.Request) -> web.Response:
        ledger = self.ledger
        return web.json_response(
            {"status": "ok", "calls": ledger.received, "jobs": len(ledger.jobs)}
        )

    async def _show_ledger(self, request: web.Request) -> web.Response:
        return web.json_response(self.snapshot(request.query.get("target")))

    async def _reset(self, request: web.Request) -> web.Response:
        scenario = None
        if request.can_read_body:
            scenario = parse_model(Scenario, await _read_json(request), "scenario")
        self.reset(scenario)
        return web.json_response({"status": "ok"})

    async def _script(self, request: web.Request) -> web.Response:
        self.script(parse_model(ScriptedTarget, await _read_json(request), "target"))
        return web.json_response({"status": "ok"})

    async def _change_account(self, request: web.Request) -> web.Response:
        change = parse_model(_CredentialsChange, await _read_json(request), "account")
        self.set_credentials(request.match_info["name"], change.credentials)
        return web.json_response({"status": "ok"})


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(headers=wire.CORS_HEADERS)


def _checked(handler: _Handler) -> _Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ScenarioError as error:
            return web.json_response({"message": str(error)}, status=400)

    return answer


async def _read_json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise ScenarioError(f"the body is not JSON: {error}") from error
