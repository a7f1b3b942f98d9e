"""Polls of many running imports: their cost, their lag, and the workers' memory."""

import json
import statistics
import time
from typing import Any, Final

from tests.benchmarks.rig import Fill, Rig, Usage, bare_ms, epoch_seconds, resident_bytes, rig
from tests.benchmarks.size import Figures, Size
from tests.benchmarks.stub import end_ms_of

DEADLINE_SECONDS: Final = 120


def polls(size: Size) -> Figures:
    """Measure polls alone, by one worker, two and four, which have more to do than they can."""
    with rig() as on:
        bare = bare_ms(on, "polls", size.polled)
        ceiling = on.stub.ceiling(size.seconds / 2)
        empty = on.bytes_used()
        on.fill(Fill(count=size.polled, poll_seconds=1.0))
        figures = {
            "stub_ceiling": ceiling,
            "running_bytes": (on.bytes_used() - empty) / size.polled,
        }
        for workers in (1, 2, 4):
            while len(on.workers) < workers:
                on.start_worker(**_always_polling())
            _calls_made(on, size.polled // 3)  # until all of them have work
            used, seconds = _calls_made(on, size.polled)
            figures |= {
                f"polls_{workers}": used.served.total / seconds,
                f"poll_ms_{workers}": used.ms_per_call,
                f"poll_efficiency_{workers}": bare / used.ms_per_call,
                f"poll_store_ms_{workers}": used.store_seconds * 1000 / used.served.total,
                f"stub_share_{workers}": used.served.cpu_seconds / seconds,
                f"store_share_{workers}": used.store_seconds / seconds,
                f"scripts_{workers}": used.scripts / seconds,
            }
        return figures


def _calls_made(on: Rig, number: int) -> tuple[Usage, float]:
    """Wait until so many calls have been made; return what they used, and the seconds."""
    before, began = on.usage(), time.monotonic()
    while on.stub.served().since(before.served).total < number:
        assert time.monotonic() - began < DEADLINE_SECONDS, "the workers make no calls"
        time.sleep(0.1)
    return on.usage().since(before), time.monotonic() - began


def _always_polling() -> dict[str, str]:
    return {"IMPORTS_POLL_MIN_SECONDS": "1", "IMPORTS_POLL_MAX_SECONDS": "1"}


def polls_at(size: Size, count: int, lanes: int) -> Figures:
    """Measure polls while `count` imports run in `lanes` lanes."""
    with rig() as on:
        on.fill(Fill(count=count, lanes=lanes, poll_seconds=1.0))
        profiles = on.path / "aws.ini"
        profiles.write_text("".join(map(_profile, range(lanes))))
        on.start_worker(**_always_polling(), AWS_CONFIG_FILE=str(profiles))
        _calls_made(on, count)  # until each account has its client
        used, _ = _calls_made(on, size.polled)
        calls = used.served.total
        return {"worker_ms": used.ms_per_call, "store_ms": used.store_seconds * 1000 / calls}


def _profile(number: int) -> str:
    return (
        f"[profile account{number}]\naws_access_key_id = AKIA{number:012}\n"
        "aws_secret_access_key = not-a-secret\n"
    )


def lag(size: Size) -> Figures:
    """Measure the time from a job's end to its event, in intervals between polls."""
    count, interval = size.lag_imports, size.lag_interval
    with rig() as on:
        begins_at = time.time() + 3 + count / 800  # when the store is filled, and a worker runs
        on.fill(Fill(count=count, end_seconds=interval, poll_seconds=interval, begins_at=begins_at))
        settings = {"IMPORTS_POLL_MIN_SECONDS": interval, "IMPORTS_POLL_MAX_SECONDS": interval}
        on.start_worker(
            **{name: str(value) for name, value in settings.items()},
            IMPORTS_EVENTS_MAX_LENGTH=str(10 * count),
        )
        deadline = time.monotonic() + 10 * interval + 60
        while len(lags := _lags(on.redis)) < count and time.monotonic() < deadline:
            time.sleep(interval / 10)
        lags += [time.time() - begins_at] * (count - len(lags))  # of those that end even later
        cuts = statistics.quantiles((each / interval for each in lags), n=100)
        return {"lag_p50": cuts[49], "lag_p99": cuts[98]}


def _lags(redis: Any) -> list[float]:
    """Return the seconds from the end of each job to the event."""
    entries = redis.xrange("imports:events")
    events = [json.loads(fields["event"]) for _, fields in entries]
    return [
        epoch_seconds(event["time"]) - end_ms_of(event["data"]["jobId"]) / 1000
        for event in events
        if event["type"] == "import.succeeded"
    ]


def memory(size: Size) -> Figures:
    """Measure a worker's memory while few and while many imports run, after the same work."""
    few, many = size.polled // 10, size.in_flight
    return {"memory_ratio": _worker_bytes(size, many) / _worker_bytes(size, few)}


def _worker_bytes(size: Size, running: int) -> int:
    with rig() as on:
        on.fill(Fill(count=running, poll_seconds=1.0))
        worker = on.start_worker(**_always_polling())
        _calls_made(on, size.polled)
        return resident_bytes(worker.process.pid)
