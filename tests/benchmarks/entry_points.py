"""Imports by each entry point, and a trickle of them, next to what users would otherwise write."""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis as AsyncRedis

from tests.benchmarks.rig import CONFIG, REGION, Rig, bare_ms, epoch_seconds, rig
from tests.benchmarks.size import Figures, Size
from tests.support import members
from tests.support.counting import CommandCounter
from worker.store.control import LaneControl

TRICKLE_RATE: Final = 30


def entry_points(size: Size) -> Figures:
    """Measure an idle worker, then imports by each entry point, against a bare aioboto3 client."""
    with rig() as on:
        bare = bare_ms(on, "imports", size.imports)
        on.start_worker()
        on.warm_up()
        figures = _idle(on, size.seconds) | {"start_ms": _start_ms(on, size.trickled)}
        for name, send in (("batch", _send_batch), ("stream", _send_stream), ("task", _send_tasks)):
            bytes_before, before = on.bytes_used(), on.usage()
            latency = send(on, size.imports)
            on.wait_until_succeeded(name, size.imports)
            used = on.usage().since(before)
            figures |= {
                f"{name}_efficiency": bare / used.ms_per_call,
                f"{name}_import_ms": used.worker_seconds * 1000 / size.imports,
                f"{name}_store_ms": used.store_seconds * 1000 / size.imports,
                f"{name}_store_bytes": used.store_bytes / size.imports,
                f"{name}_finished_bytes": (on.bytes_used() - bytes_before) / size.imports,
                f"{name}_latency": latency,
            }
        return figures | _plain_celery(on, size.imports)


def _idle(on: Rig, seconds: float) -> Figures:
    """Measure what an idle worker uses; its commands are those to the store and to the broker."""
    before = on.usage()
    with CommandCounter(on.store_url) as store, CommandCounter(on.broker_url) as broker:
        time.sleep(seconds)
    commands = store.commands.total() + broker.commands.total()
    used = on.usage().since(before)
    return {"idle_commands": commands / seconds, "idle_cpu": used.worker_seconds / seconds}


def _start_ms(on: Rig, count: int) -> float:
    """Return the median of the times from admission to the recorded start, of one at a time."""
    delays = []
    for number in range(count // 5):
        result = on.producer.send(members(f"dpaced{number}")).get(timeout=60)
        accepted, started = (epoch_seconds(result[name]) for name in ("acceptedAt", "startedAt"))
        delays.append((started - accepted) * 1000)
    return statistics.median(delays)


def _requests(name: str, count: int) -> list[dict[str, Any]]:
    return [members(f"d{name}{n}", batchId=name) for n in range(count)]


def _send_batch(on: Rig, count: int) -> float:
    on.producer.send_batch("batch", _requests("batch", count))
    return 0.0


def _send_stream(on: Rig, count: int) -> float:
    for request in _requests("stream", count):
        on.producer.add(request)
    return 0.0


def _send_tasks(on: Rig, count: int) -> float:
    return _median_latency(on.producer.send, _requests("task", count))


def _median_latency(send: Callable[[Any], Any], items: list[Any]) -> float:
    """Send tasks, all at once; return the median of the times until their results, in seconds."""
    sent = [(time.time(), send(item)) for item in items]
    latencies = []
    for began, task in sent:
        task.get(timeout=300)
        latencies.append(epoch_seconds(task.date_done) - began)
    return statistics.median(latencies)


def _plain_celery(on: Rig, count: int) -> Figures:
    """Measure what users would otherwise write: a task that calls boto3 and polls by countdown."""
    on.stop_workers()
    on.start_worker(
        app="tests.benchmarks.alternatives",
        options=["--pool", "threads", "--concurrency", "8"],
        ALTERNATIVES_BROKER_URL=on.broker_url,
    )
    send = lambda app: on.producer.app.send_task("alternatives.move", [app])  # noqa: E731
    _median_latency(send, ["dwarm"])
    before = on.usage()
    latency = _median_latency(send, [f"dplain{n}" for n in range(count)])
    used = on.usage().since(before)
    return {"plain_import_ms": used.worker_seconds * 1000 / count, "plain_latency": latency}


def trickle(size: Size) -> Figures:
    """Measure imports of a lane that starts a few per second while many wait."""
    with rig() as on:
        on.start_worker(IMPORTS_START_RATE=str(TRICKLE_RATE), IMPORTS_START_BURST="10")
        on.warm_up()
        lane = f"default/{REGION}"
        asyncio.run(_pause(on.store_url, lane, is_paused=True))
        on.producer.send_batch("trickle", _requests("trickle", size.trickled))
        while on.redis.zcard(f"imports:waiting:{lane}:normal") < size.trickled:
            time.sleep(0.1)
        before = on.usage()
        asyncio.run(_pause(on.store_url, lane, is_paused=False))
        on.wait_until_succeeded("trickle", size.trickled)
        used = on.usage().since(before)
        return {
            "trickle_worker_ms": used.worker_seconds * 1000 / size.trickled,
            "trickle_store_ms": used.store_seconds * 1000 / size.trickled,
            "trickle_scripts": used.scripts / size.trickled,
            "trickle_script_us": used.script_us / used.scripts,
        }


async def _pause(url: str, lane: str, *, is_paused: bool) -> None:
    async with AsyncRedis.from_url(url, decode_responses=True) as redis:
        control = LaneControl(redis, CONFIG)
        await (control.pause(lane, "not yet") if is_paused else control.resume(lane))
