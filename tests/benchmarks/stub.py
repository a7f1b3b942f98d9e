"""The API that benchmarks call: a process that answers as cheaply as Python can.

Unlike the sandbox it has no quotas and no faults. The id of a job says when the job ends, so that
nothing has to be stored for a poll, and a benchmark can make jobs without a call.
"""

import asyncio
import itertools
import json
import multiprocessing
import random
import time
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from multiprocessing.connection import Connection
from typing import Any, Final, Self

CEILING_CONNECTIONS: Final = 20
NEVER_MS: Final = 32_503_680_000_000
"""The end of a job that does not end, in milliseconds since the epoch: the year 3000."""

_numbers: Final = itertools.count()


def job_id(end_ms: float) -> str:
    """Return a new id of a job that ends at this time, in milliseconds since the epoch."""
    return f"{end_ms:.0f}-{next(_numbers)}"


def end_ms_of(job: str) -> int:
    """Return when a job ends."""
    return int(job.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Served:
    """What the stub has served so far, by operation, and the CPU seconds that it used."""

    calls: Counter[str]
    cpu_seconds: float

    @property
    def total(self) -> int:
        """The number of all calls."""
        return self.calls.total()

    def since(self, before: "Served") -> "Served":
        """Return what was served since then."""
        return Served(self.calls - before.calls, self.cpu_seconds - before.cpu_seconds)


class Stub:
    """The stub in its own process; jobs take `min_seconds` to `max_seconds`."""

    def __init__(self, min_seconds: float = 1.0, max_seconds: float = 1.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, min_seconds, max_seconds), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        self.port: int = self._pipe.recv()
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.send(False)
        self._process.join(10)
        self._process.kill()

    @property
    def url(self) -> str:
        """The endpoint URL."""
        return f"http://127.0.0.1:{self.port}"

    def served(self) -> Served:
        """Return what it has served so far."""
        self._pipe.send(True)
        served: Served = self._pipe.recv()
        return served

    def ceiling(self, seconds: float) -> float:
        """Return how many polls it answers per second of its own CPU time."""
        before = self.served()
        asyncio.run(_ask_all(self.port, seconds))
        served = self.served().since(before)
        return served.total / served.cpu_seconds


async def _ask_all(port: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    await asyncio.gather(*(_ask(port, until) for _ in range(CEILING_CONNECTIONS)))


async def _ask(port: int, until: float) -> None:
    """Poll over one connection, one request after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET /backend/d1/job/staging/{job_id(NEVER_MS)} HTTP/1.1\r\nHost: stub\r\n\r\n"
    while time.monotonic() < until:
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length_of(head))
    writer.close()


def _serve(pipe: Connection, min_seconds: float, max_seconds: float) -> None:
    """Serve until the pipe says False. Sends the port, then, for each True, what was served."""
    api = _Api(min_seconds * 1000, max_seconds * 1000)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Protocol(api), "127.0.0.1", 0, backlog=1000)
        pipe.send(server.sockets[0].getsockname()[1])
        while await loop.run_in_executor(None, pipe.recv):
            pipe.send(Served(api.calls.copy(), time.process_time()))

    asyncio.run(run())


class _Api:
    """The three operations. `jobs` are those that it started, by target."""

    def __init__(self, least_ms: float, most_ms: float) -> None:
        self.calls: Counter[str] = Counter()
        self._least_ms, self._most_ms = least_ms, most_ms
        self._jobs: dict[tuple[str, str], list[str]] = {}

    def answer(self, path: str) -> bytes:
        _, _, app, kind, environment, *rest = path.split("/")
        now_ms = time.time() * 1000
        match kind, rest:
            case "auth", ["import"]:
                self.calls["start"] += 1
                job = job_id(now_ms + random.uniform(self._least_ms, self._most_ms))
                self._jobs.setdefault((app, environment), []).append(job)
                body: Any = self._described(app, environment, job, now_ms)
            case "job", [job]:
                self.calls["poll"] += 1
                body = self._described(app, environment, job, now_ms)
            case _:
                self.calls["list"] += 1
                jobs = self._jobs.get((app, environment), [])
                body = {"jobs": [self._described(app, environment, j, now_ms) for j in jobs]}
        return json.dumps(body).encode()

    def _described(self, app: str, environment: str, job: str, now_ms: float) -> dict[str, str]:
        end_ms = end_ms_of(job)
        return {
            "appId": app,
            "backendEnvironmentName": environment,
            "jobId": job,
            "operation": "ImportBackendAuth",
            "status": "COMPLETED" if end_ms <= now_ms else "IN_PROGRESS",
            "createTime": f"{(min(end_ms, now_ms) - self._most_ms) / 1000:.0f}",
            "updateTime": f"{min(end_ms, now_ms) / 1000:.0f}",
        }


class _Protocol(asyncio.Protocol):
    """Answers the requests of one connection in their order."""

    def __init__(self, api: _Api) -> None:
        self._api = api
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            length = _length_of(head)
            if not blank or len(rest) < length:
                return
            self._received = rest[length:]
            path = head.split(b" ", 2)[1].partition(b"?")[0].decode()
            body = self._api.answer(path)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (_date(), len(body), body)
            )


def _date() -> bytes:
    return formatdate(usegmt=True).encode()


def _length_of(head: bytes) -> int:
    """Return the length of the body that these headers announce."""
    _, name, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if name else 0
