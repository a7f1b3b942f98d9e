"""This machine's Redis and RabbitMQ: a database and a virtual host for each process."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from redis import Redis
from redis.exceptions import RedisError

# Test processes run in parallel, and each has its own.
_PROCESS: Final = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
MACHINE_REDIS: Final = f"redis://127.0.0.1:6379/{8 + int(_PROCESS) % 8}"
RABBITMQ_VHOST: Final = f"amplify-import-tests-{_PROCESS}"


def machine_redis() -> str:
    """Return the URL of a database on this machine's Redis; skip the test if there is none."""
    try:
        with Redis.from_url(MACHINE_REDIS) as redis:
            redis.ping()
    except RedisError as error:
        pytest.skip(f"NO REDIS on 127.0.0.1:6379, its tests are skipped: {error}")
    return MACHINE_REDIS


@contextmanager
def virtual_host(name: str, *options: str) -> Iterator[str]:
    """Create a virtual host with these options of `rabbitmqctl add_vhost`; delete it at the end."""
    if rabbitmqctl("add_vhost", name, *options) != 0:
        pytest.skip("NO RABBITMQ whose rabbitmqctl may be run here, its tests are skipped")
    rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    yield f"amqp://guest:guest@127.0.0.1:5672/{name}"
    rabbitmqctl("delete_vhost", name)


def rabbitmqctl(*arguments: str) -> int:
    """Run rabbitmqctl; return its exit code."""
    program = shutil.which("rabbitmqctl", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        return 1
    return subprocess.run([program, "--quiet", *arguments], check=False, timeout=60).returncode
