"""The floor: aioboto3 in one process without any queue, store or record.

    python -m tests.benchmarks.bare imports 600   # each import: a start, and polls until it ends
    python -m tests.benchmarks.bare polls 2000    # polls alone

It prints the CPU milliseconds of one call. The endpoint and the credentials come from the
environment.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aioboto3
from botocore.config import Config

from tests.benchmarks.alternatives import SERVICE, parameters
from tests.benchmarks.stub import NEVER_MS, job_id

AT_ONCE: Final = 100
POLL_SECONDS: Final = 1.5
WARMING: Final = 50

Client = Any
Step = Callable[[Client, str], Awaitable[int]]
"""Does something for a target; returns the number of its calls."""


async def move(client: Client, target: str) -> int:
    """Import a target, and poll its job until it ends."""
    started = await client.import_backend_auth(**parameters(target))
    made = 1
    status = ""
    while status != "COMPLETED":
        await asyncio.sleep(POLL_SECONDS)
        status = await _poll(client, target, started["JobId"])
        made += 1
    return made


async def poll(client: Client, target: str) -> int:
    """Poll a job that does not end."""
    await _poll(client, target, job_id(NEVER_MS))
    return 1


async def _poll(client: Client, target: str, job: str) -> str:
    named = {"AppId": target, "BackendEnvironmentName": "staging", "JobId": job}
    return str((await client.get_backend_job(**named))["Status"])


async def measure(step: Step, count: int) -> float:
    """Return the CPU milliseconds of one call, in `count` steps."""
    config = Config(max_pool_connections=AT_ONCE)
    async with aioboto3.Session().client(SERVICE, config=config) as client:
        await asyncio.gather(*(poll(client, f"dwarm{n}") for n in range(WARMING)))
        before = time.process_time()
        # Imports wait side by side while their jobs run; polls are made by so many loops.
        room = asyncio.Semaphore(AT_ONCE if step is poll else count)

        async def take(number: int) -> int:
            async with room:
                return await step(client, f"dbare{number}")

        calls = sum(await asyncio.gather(*map(take, range(count))))
        return (time.process_time() - before) * 1000 / calls


if __name__ == "__main__":
    print(asyncio.run(measure(move if sys.argv[1] == "imports" else poll, int(sys.argv[2]))))
