"""Servers of each kind and each configuration that users bring: by socket, of other queue types."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from config.servers import server_of
from tests.servers import DURABLE, Server
from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    Worker,
    environment_for,
    members,
    producing,
)

Start = Callable[..., Worker]


@pytest.fixture
def start(sandbox: Sandbox, tmp_path: Path) -> Iterator[Start]:
    """Start real workers on a store of any URL; each must stop by itself when asked."""
    workers: list[Worker] = []

    def start(url: str, **settings: str) -> Worker:
        environment = environment_for(sandbox, url, **settings)
        worker = Worker(environment, tmp_path / f"worker-{len(workers)}.log")
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop(60)


def import_by_each_door(producer: Producer) -> None:
    """Send an import through each door, and wait until all have ended well."""
    task = producer.send(members("dtask"))
    producer.send_batch("batch", [members("dbatch", importId="of-the-batch")])
    producer.add(members("dstream", importId="of-the-stream"))
    assert task.get(timeout=30)["outcome"] == "succeeded"
    for import_id in ("of-the-batch", "of-the-stream"):
        producer.wait_for_event("import.succeeded", importId=import_id)


def test_a_server_is_reached_by_its_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "my;%redis"
    settings = {**DURABLE, "unixsocket": f'"{path}"', "requirepass": "s3cr/t"}
    url = f"unix://:{quote('s3cr/t', safe='')}@{quote(str(path))}?db=2"
    with Server(tmp_path / "server", settings) as server:
        worker = start(url).wait_until_ready()
        with producing(server_of(url).celery_url, server.url.replace("/0", "/2")) as producer:
            import_by_each_door(producer)
        checks = CommandLine(url)("doctor").stdout
        assert "FAIL" not in checks
        assert "workers: 1 answered" in checks
        assert "s3cr" not in checks + worker.log
