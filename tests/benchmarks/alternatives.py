"""What users would otherwise write, in its usual short form.

    celery -A tests.benchmarks.alternatives worker     # Celery's retries, boto3's defaults
    ALTERNATIVES_RATE_LIMIT=5/s celery -A …            # the same, with its share of the quota
    python -m tests.benchmarks.alternatives COUNT APP  # botocore's adaptive retries

`bench_limits` runs them for comparison with the lanes of this project; there, they only start
imports. `bench` runs the task that also follows its job.
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

POLL_SECONDS = 1.5

broker = os.environ.get("ALTERNATIVES_BROKER_URL")
app = Celery("alternatives", broker=broker, backend=broker)

amplify = boto3.client(SERVICE)


@app.task(
    bind=True,
    name="alternatives.start",
    autoretry_for=(ClientError,),
    retry_backoff=True,
    max_retries=None,
    rate_limit=os.environ.get("ALTERNATIVES_RATE_LIMIT"),
    ignore_result=True,
)
def start(_task: Task[..., Any], target: str) -> None:
    """Start the import of a target."""
    amplify.import_backend_auth(**parameters(target))


@app.task(bind=True, name="alternatives.move", max_retries=None)
def move(task: Task[..., Any], target: str, job: str = "") -> str:
    """Start the import of a target, and poll its job by countdown until it ends."""
    if not job:
        job = amplify.import_backend_auth(**parameters(target))["JobId"]
    else:
        named = {"AppId": target, "BackendEnvironmentName": "staging", "JobId": job}
        if amplify.get_backend_job(**named)["Status"] == "COMPLETED":
            return job
    raise task.retry(args=(target, job), countdown=POLL_SECONDS)


async def script(count: int, name: str) -> None:
    """Start that many imports, ten at a time; botocore limits the rate and retries."""
    config = Config(retries={"mode": "adaptive", "max_attempts": 10})
    room = asyncio.Semaphore(10)

    async def start_one(target: str) -> None:
        async with room:
            await client.import_backend_auth(**parameters(target))

    async with aioboto3.Session().client(SERVICE, config=config) as client:
        targets = (f"{name}{n}" for n in range(count))
        await asyncio.gather(*map(start_one, targets), return_exceptions=True)


def parameters(target: str) -> dict[str, str]:
    """Return botocore's parameters: the request's members in its spelling."""
    return {name[0].upper() + name[1:]: value for name, value in members(target).items()}


if __name__ == "__main__":
    asyncio.run(script(int(sys.argv[1]), sys.argv[2]))
