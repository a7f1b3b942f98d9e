"""Relays and receivers as processes of their own, killed while events flow: none is lost, and the
order of each subject holds."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.support import free_port, wait_until
from tests.support.forking import ForkedProcess, Streams
from tests.support.receiving import SECRET
from tests.support.relaying import append, event, is_in_order, write_sinks
from tests.support.scraping import Scraper

SINKS = ("audit", "other")
SUBJECTS = 20
EACH = 60


class Processes:
    """Relays and one receiver, which may be killed and started again."""

    def __init__(self, store_url: str, directory: Path) -> None:
        self.received = directory / "received"
        self.received.touch()
        self._log = directory / "log"
        self._port = free_port()
        url = f"http://127.0.0.1:{self._port}"
        targets = {name: {"url": f"{url}/{name}"} for name in SINKS}
        sinks = write_sinks(directory / "sinks.toml", **targets)
        self._environment = {
            "IMPORTS_REDIS_URL": store_url,
            "IMPORTS_SINKS_FILE": str(sinks),
            "IMPORTS_LEASE_SECONDS": "2",
            "SECRET": SECRET,
            "RECEIVER_PORT": self._port,
            "RECEIVED": str(self.received),
        }
        self._running: list[ForkedProcess] = []

    def start_receiver(self) -> ForkedProcess:
        return self._start("tests.support.receiving:main", ["receiver"])

    def start_relay(self, **settings: str) -> ForkedProcess:
        return self._start("amplify_import:main", ["amplify-import", "relay"], **settings)

    def stop(self) -> None:
        for process in self._running:
            process.kill()

    def ids(self, sink: str) -> list[str]:
        """Return the ids of the events that arrived at a sink."""
        lines = (line.split(" ") for line in self.received.read_text().splitlines())
        return [event_id for path, event_id in lines if path == f"/{sink}"]

    def arrived(self) -> int:
        """Return how many events arrived, at all sinks together."""
        return sum(len(self.ids(name)) for name in SINKS)

    def _start(self, main: str, arguments: list[str], **settings: str) -> ForkedProcess:
        environment = {**self._environment, **settings}
        streams = Streams(self._log, self._log)
        self._running.append(ForkedProcess(main, arguments, environment, streams))
        return self._running[-1]


@pytest.fixture
def processes(store_url: str, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(store_url, tmp_path)
    yield processes
    processes.stop()


async def test_no_event_is_lost_when_relays_and_receivers_are_killed(
    redis: Any, store_url: str, processes: Processes
) -> None:
    draw = random.Random(11)
    receiver = processes.start_receiver()
    relays = [processes.start_relay(), processes.start_relay()]
    sent = [event(f"d{s}/prod", n) for n in range(EACH) for s in range(SUBJECTS)]
    for part in range(0, len(sent), 200):
        await append(redis, *sent[part : part + 200])
        enough = processes.arrived() + 1
        wait_until(partial(has_arrived, processes, enough), "events arrive")
        if draw.random() < 0.5:
            relays.pop(0).kill()
            relays.append(processes.start_relay())
        else:
            receiver.kill()
            receiver.wait(10)
            receiver = processes.start_receiver()
    wanted = {each["id"] for each in sent}
    with Redis.from_url(store_url, decode_responses=True) as client:
        wait_until(lambda: all(is_done(client, name) for name in SINKS), "all is settled", 90)
    for name in SINKS:
        assert set(processes.ids(name)) == wanted
        assert is_in_order(processes.ids(name))


def has_arrived(processes: Processes, number: int) -> bool:
    return processes.arrived() >= number


def is_done(client: Any, sink: str) -> bool:
    groups = client.xinfo_groups("imports:events")
    (group,) = [each for each in groups if each["name"] == f"relay:{sink}"]
    return bool(group["pending"] == 0 and group["lag"] == 0)


async def test_a_relay_shows_its_metrics_and_stops_when_asked(
    redis: Any, processes: Processes
) -> None:
    processes.start_receiver()
    port = free_port()
    settings = {"IMPORTS_METRICS_PORT": port, "IMPORTS_METRICS_STORE": "true"}
    relay = processes.start_relay(**settings)
    scraper = Scraper(port)
    await append(redis, *(event("d1/prod", n) for n in range(10)))
    wait_until(lambda: processes.arrived() == 20, "the events arrive at both sinks")
    wait_until(lambda: scraper.probe("/readyz") == 200, "it is ready")
    assert scraper.probe("/livez") == scraper.probe("/startupz") == 200
    name = "imports_relay_events_total"
    wait_until(
        lambda: scraper.samples().value(name, sink="audit", result="delivered") == 10,
        "the events are counted",
    )
    samples = scraper.samples()
    assert samples.value("imports_relay_serves") == 2
    assert samples.value("imports_relay_send_seconds_count", sink="audit") == 10
    assert samples.value("imports_sink_served", sink="audit") == 1
    assert samples.value("imports_sink_waiting", sink="audit") == 0
    relay.send_signal(15)
    assert relay.wait(60) == 0
