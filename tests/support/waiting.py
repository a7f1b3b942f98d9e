"""Wait for conditions, never for a fixed time."""

import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

WAIT_SECONDS: Final = 60.0


def wait_until(predicate: Callable[[], T], description: str, seconds: float = WAIT_SECONDS) -> T:
    """Return the first truthy value of `predicate`; fail with the description after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := predicate():
            return value
        time.sleep(0.02)
    raise AssertionError(f"gave up after {seconds:g} s waiting until {description}")


def free_port() -> str:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])
