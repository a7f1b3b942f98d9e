"""Wait for conditions, never for a fixed time."""

import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

WAIT_SECONDS: Final = 60.0


def wait_until(predicate: Callable[[], T], description: str, seconds: float = WAIT_SECONDS) -> T:
    """Return the first truthy value of `predicate`; fail with the description after `seconds`."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        if value := predicate():
            return value
        time.sleep(pause_after(waited))
    raise AssertionError(f"gave up after {seconds:g} s waiting until {description}")


def pause_after(waited: float) -> float:
    """Return how many seconds to pause before the next look, after so many seconds of waiting.

    Looking costs CPU, which those lack that are waited for: a long wait looks less often.
    """
    return min(max(0.01, waited / 20), 0.1)


def free_port() -> str:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])
