"""What an account costs a worker: memory, CPU, and the time of its first call.

`make bench-accounts` runs it: with 1, 100 and 1,000 accounts, each in a process of its own, whose
AWS configuration has a profile for every account. The accounts make their first call one after
another, to a stub that answers at once from another process.
"""

import asyncio
import gc
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.benchmarks.stub import NEVER_MS, Stub, job_id
from worker.operations.aws import MAX_OPEN_ACCOUNTS, Aws

COUNTS: Final = (1, 100, 1000)
REGION: Final = "us-east-1"
JOB: Final = {"AppId": "d1", "BackendEnvironmentName": "staging", "JobId": job_id(NEVER_MS)}
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
SPAWN: Final = multiprocessing.get_context("spawn")


def memory_mb() -> float:
    """Return the resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE_BYTES / 1e6


async def measure(count: int) -> None:
    """Make the calls, and print what they cost."""
    aws = Aws(60.0, max_connections=100)
    await aws.warm_up()
    before, cpu = memory_mb(), time.process_time()
    first = [await seconds_of_call(aws, number) for number in range(count)]
    cpu_ms = (time.process_time() - cpu) * 1000 / count
    grown = memory_mb() - before
    again = [await seconds_of_call(aws, number) for number in range(count)]
    await aws.close()
    print(
        f"{count:5,} accounts: {grown:6.1f} MB ({grown / count:.2f} MB each),"
        f" {cpu_ms:.0f} ms CPU each; first call {statistics.median(first) * 1000:.0f} ms,"
        f" second call {statistics.median(again) * 1000:.0f} ms (medians)",
        flush=True,
    )


async def seconds_of_call(aws: Aws, number: int) -> float:
    """Return how long a poll by an account takes."""
    began = time.perf_counter()
    answer = await aws.call(f"account-{number}", REGION, "get_backend_job", JOB)
    assert answer.status == 200
    return time.perf_counter() - began


def run(count: int, endpoint: str) -> None:
    """Measure with so many accounts, in this process."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "config")
        config.write_text(
            "".join(
                f"[profile account-{number}]\n"
                f"aws_access_key_id = AKIABENCH{number:011}\n"
                "aws_secret_access_key = not-a-secret\n"
                for number in range(count)
            )
        )
        time.sleep(2)  # until the file counts as settled, as on a worker that has run for a while
        os.environ.update(
            AWS_ENDPOINT_URL_AMPLIFYBACKEND=endpoint,
            AWS_CONFIG_FILE=str(config),
            AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        )
        asyncio.run(measure(count))


def main() -> None:
    """Start the stub, and measure each number of accounts in a new process."""
    print(f"clients stay open for the last {MAX_OPEN_ACCOUNTS} accounts")
    with Stub() as stub:
        for count in COUNTS:
            process = SPAWN.Process(target=run, args=(count, stub.url))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
