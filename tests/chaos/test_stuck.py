"""A worker that is alive but makes no progress ends itself, and logs which part was stuck."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.support import Producer, Sandbox, Worker, environment_for, members, wait_until
from worker.watchdog import EXIT_CODE

PARTS = ("conductor", "consumer", "queues")
SECONDS = 60


@pytest.fixture
def stuck_workers(sandbox: Sandbox, store_url: str, tmp_path: Path) -> Iterator[dict[str, Worker]]:
    workers = {}
    # Each worker has its own database, so that none does the work of another.
    urls = {part: store_url.replace("/0", f"/{PARTS.index(part) + 1}") for part in PARTS}
    for part, url in urls.items():
        environment = environment_for(sandbox, url, STUCK=part)
        workers[part] = Worker(environment, tmp_path / f"{part}.log", app="tests.chaos.stuck")
    yield workers
    for worker in workers.values():
        worker.kill()
    for worker_url in urls.values():
        with Redis.from_url(worker_url) as redis:
            redis.flushdb()


def test_the_worker_ends_whichever_part_is_stuck(
    stuck_workers: dict[str, Worker], store_url: str
) -> None:
    for worker in stuck_workers.values():
        worker.wait_until_ready()
    deaf = Producer(store_url.replace("/0", "/3"), store_url.replace("/0", "/3"))
    deaf.send(members("d1"))
    deaf.close()
    processes = [worker.process for worker in stuck_workers.values()]
    wait_until(lambda: all(p.poll() is not None for p in processes), "all of them end", SECONDS)
    for part, worker in stuck_workers.items():
        assert worker.process.returncode == EXIT_CODE
        assert f'"what": "{part}"' in worker.log
        assert "worker.stuck" in worker.log


def test_a_worker_that_waits_for_its_store_is_not_stuck(sandbox: Sandbox, tmp_path: Path) -> None:
    environment = environment_for(sandbox, "redis://127.0.0.1:1/0", STUCK="nothing")
    worker = Worker(environment, tmp_path / "waiting.log", app="tests.chaos.stuck")
    try:
        wait_until(lambda: "store.unreachable" in worker.log, "it waits for the store")
        with pytest.raises(AssertionError, match="gave up"):
            wait_until(lambda: worker.process.poll() is not None, "it ends", 20)
    finally:
        worker.kill()
