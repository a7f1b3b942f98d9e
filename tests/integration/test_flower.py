"""Where Flower listens, and who may see it, as an operator starts it."""

import http.client
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import BIN, PROJECT, Producer, StartWorker, free_port, members, wait_until

LOOPBACK = "127.0.0.1"
ALSO_THIS_MACHINE = "127.0.0.2"
"""Answers only if a server listens on all interfaces."""

LOGIN = {"Authorization": f"Basic {b64encode(b'ann:secret').decode()}"}


class Flower:
    """A running Flower with its own port, and its log."""

    def __init__(self, store_url: str, log: Path, *options: str, **environment: str) -> None:
        self.port = int(free_port())
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [BIN / "celery", "-A", "worker", "flower", f"--port={self.port}", *options],
                cwd=PROJECT,
                env={**os.environ, "IMPORTS_REDIS_URL": store_url, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def status_of(
        self, path: str, host: str = LOOPBACK, method: str = "GET", **headers: str
    ) -> int:
        """Return the status of a page; 0 if nothing listens there."""
        connection = http.client.HTTPConnection(host, self.port, timeout=60)
        try:
            connection.request(method, path, headers=headers)
            return connection.getresponse().status
        except ConnectionError:
            return 0
        finally:
            connection.close()

    def wait_until_it_answers(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, self.log
            return self.status_of("/healthcheck") > 0

        wait_until(answers, "Flower answers")


StartFlower = Callable[..., Flower]


@pytest.fixture
def start_flower(store_url: str, tmp_path: Path) -> Iterator[StartFlower]:
    started: list[Flower] = []

    def start(*options: str, **environment: str) -> Flower:
        log = tmp_path / f"flower-{len(started)}.log"
        started.append(Flower(store_url, log, *options, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


needs_another_loopback_address = pytest.mark.skipif(
    sys.platform != "linux", reason="127.0.0.2 is an address of this machine on Linux only"
)


@needs_another_loopback_address
def test_without_a_login_only_this_machine_reaches_it(start_flower: StartFlower) -> None:
    flower = start_flower()
    flower.wait_until_it_answers()
    assert flower.status_of("/tasks") == 200
    assert flower.status_of("/tasks", ALSO_THIS_MACHINE) == 0
    assert "Flower has no login: set FLOWER_BASIC_AUTH=user:password" in flower.log


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "host.example"])
def test_without_a_login_it_refuses_another_address(
    start_flower: StartFlower, address: str
) -> None:
    flower = start_flower(f"--address={address}")
    assert flower.process.wait(90) == 1
    assert f"it does not listen on {address}" in flower.log
    assert "Traceback" not in flower.log


@needs_another_loopback_address
def test_with_a_password_other_machines_reach_it(start_flower: StartFlower) -> None:
    flower = start_flower(FLOWER_BASIC_AUTH="ann:secret")
    flower.wait_until_it_answers()
    for host in (LOOPBACK, ALSO_THIS_MACHINE):
        assert flower.status_of("/tasks", host) == 401
        assert flower.status_of("/tasks", host, **LOGIN) == 200
    assert "no login" not in flower.log
    assert "secret" not in flower.log


@needs_another_loopback_address
def test_with_oauth_it_asks_for_a_login_below_its_prefix(start_flower: StartFlower) -> None:
    flower = start_flower(
        "--url_prefix=imports/flower",
        FLOWER_AUTH=r".*@example\.com",
        FLOWER_AUTH_PROVIDER="flower.views.auth.GithubLoginHandler",
        FLOWER_OAUTH2_KEY="key",
        FLOWER_OAUTH2_SECRET="secret-of-oauth",
        FLOWER_OAUTH2_REDIRECT_URI="https://imports.example/imports/flower/login",
    )
    flower.wait_until_it_answers()
    assert flower.status_of("/imports/flower/tasks", ALSO_THIS_MACHINE) == 302
    assert "secret-of-oauth" not in flower.log


def test_in_persistent_mode_it_still_shows_what_it_had_seen(
    start_flower: StartFlower, start_worker: StartWorker, producer: Producer, tmp_path: Path
) -> None:
    options = ("--persistent=True", f"--db={tmp_path / 'flower.db'}")
    login = {"FLOWER_BASIC_AUTH": "ann:secret"}
    flower = start_flower(*options, **login)
    flower.wait_until_it_answers()
    start_worker()
    task = producer.send(members("dseen"))
    task.get(timeout=60)

    def is_shown(flower: Flower) -> bool:
        return flower.status_of(f"/api/task/info/{task.id}", **LOGIN) == 200

    wait_until(lambda: is_shown(flower), "Flower shows the import")
    flower.process.terminate()
    assert flower.process.wait(60) == 0
    again = start_flower(*options, **login)
    again.wait_until_it_answers()
    assert is_shown(again)
