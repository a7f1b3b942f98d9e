"""Relays in this process, sinks files and events, for tests of the relay."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from config.settings import Settings
from tests.support import WAIT_SECONDS
from tests.support.waiting import pause_after
from worker.relay.kinds import served
from worker.relay.relay import Relay
from worker.relay.sinksfile import read_sinks
from worker.store.relays import RelayStore

LEASE_SECONDS: Final = 4.0

EVENTS: Final = "imports:events"
MOST: Final = 10_000
WEBHOOK: Final = {"kind": "webhook", "secrets": ["env:SECRET"], "allow_private": True}


def event(subject: str, number: int, kind: str = "import.started", **data: Any) -> dict[str, Any]:
    """Return the event `number` of a subject, as a worker writes it."""
    return {
        "specversion": "1.0",
        "id": f"{subject}/{number}",
        "source": "amplify-import-worker",
        "type": kind,
        "subject": subject,
        "time": "2026-11-24T08:01:07.003Z",
        "datacontenttype": "application/json",
        "dataschema": f"urn:amplify-import-worker:{kind}:1",
        "data": {"appId": subject, "batchId": None, **data},
    }


async def append(redis: Any, *events: Mapping[str, Any]) -> None:
    """Append events to the stream, as the scripts do."""
    async with redis.pipeline(transaction=False) as pipeline:
        for each in events:
            pipeline.xadd(EVENTS, {"event": json.dumps(each)}, maxlen=MOST, approximate=True)
        await pipeline.execute()


def is_in_order(ids: list[str]) -> bool:
    """Return whether the first of each event's occurrences are in order, for each subject."""
    last: dict[str, int] = {}
    for each in dict.fromkeys(ids):
        subject, _, number = each.rpartition("/")
        if last.get(subject, -1) >= int(number):
            return False
        last[subject] = int(number)
    return True


def write_sinks(path: Path, **sinks: Mapping[str, Any]) -> Path:
    """Write a sinks file. A sink of no kind is a webhook, with a secret, to this machine."""
    lines = []
    for name, members in sinks.items():
        lines.append(f"[sinks.{name}]")
        defaults = {} if "kind" in members else WEBHOOK
        for member, value in {**defaults, **members}.items():
            lines.append(f"{member} = {json.dumps(value)}")
    path.write_text("\n".join(lines))
    return path


@asynccontextmanager
async def relaying(
    redis: Any, directory: Path, name: str = "r1", **sinks: Mapping[str, Any]
) -> AsyncIterator[Relay]:
    """Run a relay that serves sinks, which are webhooks unless they name their kind."""
    path = write_sinks(directory / f"{name}.toml", **sinks)
    found = read_sinks(Settings(sinks_file=path))
    store = RelayStore(redis, name, round(LEASE_SECONDS * 1000))
    to_serve = {each: served(each, sink, 1000) for each, sink in found.items()}
    relay = Relay(to_serve, store, LEASE_SECONDS)
    stopped = asyncio.Event()
    task = asyncio.create_task(relay.run(stopped))
    try:
        yield relay
    finally:
        stopped.set()
        await task


async def until(holds: Callable[[], bool | Awaitable[bool]], description: str) -> None:
    """Wait until a condition holds."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await _now(holds):  # noqa: ASYNC110 - nothing tells when a server changes
                await asyncio.sleep(pause_after(time.monotonic() - began))
    except TimeoutError:
        pytest.fail(f"gave up waiting until {description}")


async def _now(holds: Callable[[], bool | Awaitable[bool]]) -> bool:
    found = holds()
    return found if isinstance(found, bool) else await found
