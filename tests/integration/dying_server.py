"""The command `serve`, which dies when it has admitted a request and is about to answer."""

import os
import signal

from aiohttp import web

from worker.cli.main import main
from worker.doors.http import server


async def _die(_request: web.Request, response: web.StreamResponse) -> None:
    if response.status == 202:
        os.kill(os.getpid(), signal.SIGKILL)


server._add_headers = _die  # type: ignore[assignment]  # noqa: SLF001 - runs before an answer is sent

main()
