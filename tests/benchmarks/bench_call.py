"""What a call to AWS costs: CPU of a poll by the worker and by a plain aioboto3 client.

`make bench-call` runs it. Both poll the same stub server in one process, in turns, so that a slow
hour of the machine affects both. The stub is a process of its own, and its CPU is not counted.
"""

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import aioboto3
from botocore.config import Config

from tests.support import ACCESS_KEY
from tests.wire import answer
from worker.domain.answers import Kind
from worker.domain.imports import Import
from worker.domain.requests import DEFAULT_ACCOUNT
from worker.domain.states import State
from worker.operations.aws import SERVICE, Aws
from worker.operations.import_backend_auth import ImportBackendAuth

ROUNDS: Final = 20
POLLS: Final = 200
AT_ONCE: Final = 20
REGION: Final = "us-east-1"
JOB: Final = {"AppId": "d2e1f0g9h8i7j6", "BackendEnvironmentName": "staging", "JobId": "job-1"}
REPLY: Final = answer(
    200,
    b'{"appId": "d2e1f0g9h8i7j6", "backendEnvironmentName": "staging", "jobId": "job-1",'
    b' "operation": "ImportBackendAuth", "status": "IN_PROGRESS",'
    b' "createTime": "1764000000", "updateTime": "1764000001"}',
)

Poll = Callable[[], Awaitable[object]]


class Stub(asyncio.Protocol):
    """Sends `REPLY` to each request. The requests have no body."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        self._transport.write(REPLY * len(requests))


def serve(pipe: Connection) -> None:
    """Serve until the pipe closes. First send the port, then, for each message, the CPU time."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Stub, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        while await loop.run_in_executor(None, pipe.recv):
            pipe.send(time.process_time())

    asyncio.run(run())


async def cpu_ms(poll: Poll, polls: int = POLLS) -> float:
    """Return the CPU time of one poll in milliseconds, while `AT_ONCE` polls are in progress."""

    async def repeat() -> None:
        for _ in range(polls // AT_ONCE):
            await poll()

    before = time.process_time()
    await asyncio.gather(*(repeat() for _ in range(AT_ONCE)))
    return (time.process_time() - before) * 1000 / polls


async def measure(pipe: Connection) -> None:
    """Poll in turns, and print the results."""
    aws = Aws(60.0, max_connections=AT_ONCE)
    item = Import(
        id="import-1",
        state=State.RUNNING,
        app_id=JOB["AppId"],
        backend_environment_name=JOB["BackendEnvironmentName"],
        account=DEFAULT_ACCOUNT,
        region=REGION,
        job_id=JOB["JobId"],
    )
    operation = ImportBackendAuth(aws)
    config = Config(max_pool_connections=AT_ONCE)
    async with aioboto3.Session().client(SERVICE, region_name=REGION, config=config) as client:

        async def plain() -> None:
            assert (await client.get_backend_job(**JOB))["Status"] == "IN_PROGRESS"

        async def ours() -> None:
            polled = await operation.status(item)
            assert polled.kind is Kind.OK, polled.error

        costs: dict[Poll, list[float]] = {plain: [], ours: []}
        for poll in costs:
            await cpu_ms(poll)
        pipe.send(True)
        served = pipe.recv()
        for _ in range(ROUNDS):
            for poll, cost in costs.items():
                cost.append(await cpu_ms(poll))
        pipe.send(True)
        stub = (pipe.recv() - served) * 1000 / (2 * ROUNDS * POLLS)
    await aws.close()
    _print(costs[plain], costs[ours], stub)


def _print(plain: list[float], ours: list[float], stub: float) -> None:
    ratios = [ours_ms / plain_ms for plain_ms, ours_ms in zip(plain, ours, strict=True)]
    for name, values, unit in (
        ("plain aioboto3", plain, " ms CPU per poll"),
        ("worker", ours, " ms CPU per poll"),
        ("ratio", ratios, ""),
    ):
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name}: {middle:.3f}{unit} (quartiles {low:.3f} to {high:.3f})")
    share = stub / statistics.median(ours)
    print(f"stub: {stub:.3f} ms CPU per poll, {share:.0%} of the worker's: it could serve more")


def main() -> None:
    """Start the stub, measure, and print the results."""
    pipe, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs,), daemon=True
    )
    process.start()
    os.environ.update(
        AWS_ENDPOINT_URL_AMPLIFYBACKEND=f"http://127.0.0.1:{pipe.recv()}",
        AWS_ACCESS_KEY_ID=ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY="not-a-secret",
    )
    asyncio.run(measure(pipe))
    pipe.send(False)
    process.join()


if __name__ == "__main__":
    main()
