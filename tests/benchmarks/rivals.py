"""What one would write instead, as short as it is usually written: it starts imports, no more.

    celery -A tests.benchmarks.rivals worker     # Celery's retries with backoff, boto3's defaults
    RIVALS_RATE_LIMIT=5/s celery -A …            # the same, told its share of the quota
    python -m tests.benchmarks.rivals COUNT APP  # a script on botocore's adaptive retries

`bench_limits` runs them beside the lanes of this project.
"""

import asyncio
import os
import sys
from typing import Any

import aioboto3
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from celery import Celery, Task

from tests.support import members

SERVICE = "amplifybackend"

app = Celery("rivals", broker=os.environ.get("RIVALS_BROKER_URL"))

amplify = boto3.client(SERVICE)


@app.task(
    bind=True,
    name="rivals.start",
    autoretry_for=(ClientError,),
    retry_backoff=True,
    max_retries=None,
    rate_limit=os.environ.get("RIVALS_RATE_LIMIT"),
    ignore_result=True,
)
def start(_task: Task[..., Any], target: str) -> None:
    """Start the import of a target."""
    amplify.import_backend_auth(**parameters(target))


async def script(count: int, name: str) -> None:
    """Start so many imports, ten at a time, and leave the rest to botocore."""
    config = Config(retries={"mode": "adaptive", "max_attempts": 10})
    room = asyncio.Semaphore(10)

    async def start_one(target: str) -> None:
        async with room:
            await client.import_backend_auth(**parameters(target))

    async with aioboto3.Session().client(SERVICE, config=config) as client:
        targets = (f"{name}{n}" for n in range(count))
        await asyncio.gather(*map(start_one, targets), return_exceptions=True)


def parameters(target: str) -> dict[str, str]:
    """Return what botocore is called with: the members, as it spells them."""
    return {name[0].upper() + name[1:]: value for name, value in members(target).items()}


if __name__ == "__main__":
    asyncio.run(script(int(sys.argv[1]), sys.argv[2]))
