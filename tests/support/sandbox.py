"""The sandbox on its own thread, for tests that block."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any, Final, Self

from worker.sandbox.scenario import Credentials, Scenario, ScriptedTarget
from worker.sandbox.server import SandboxServer

ACCESS_KEY: Final = "AKIATESTDEFAULT00000"


class Sandbox:
    """The sandbox on its own thread, for tests that block."""

    def __init__(self, scenario: Scenario | None = None) -> None:
        self._server = SandboxServer(scenario)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._server.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._server.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The endpoint URL of the sandbox."""
        return self._server.url

    def reset(self, scenario: Scenario) -> None:
        """Discard everything and use another scenario."""
        self._do(lambda: self._server.reset(scenario))

    def script(self, app: str, **target: Any) -> None:
        """Script one app's imports."""
        scripted = ScriptedTarget.model_validate({"app_id": app, **target})
        self._do(lambda: self._server.script(scripted))

    def set_credentials(self, account: str, credentials: Credentials) -> None:
        """Change the state of an account's credentials."""
        self._do(lambda: self._server.set_credentials(account, credentials))

    def calls(self, operation: str = "ImportBackendAuth", app: str = "") -> list[dict[str, Any]]:
        """Return the calls that were received."""
        calls: list[dict[str, Any]] = self.snapshot()["calls"]
        return [
            call
            for call in calls
            if call["operation"] == operation and (call["target"] or "").startswith(app)
        ]

    def jobs(self, app: str = "") -> list[dict[str, Any]]:
        """Return the jobs that really exist."""
        jobs: list[dict[str, Any]] = self.snapshot()["jobs"]
        return [job for job in jobs if job["target"].startswith(f"{app}/" if app else "")]

    def snapshot(self) -> dict[str, Any]:
        """Return the whole ledger."""
        return dict(json.loads(json.dumps(self._do(self._server.snapshot))))

    def _do(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return self._run(call())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)
