"""Ends a worker that looks alive and does nothing: health is progress, not a process that runs.

A worker that ends is started anew by whatever runs it, and loses nothing: its leases run out. One
that hangs would be kept for ever.
"""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Final

import structlog

log = structlog.get_logger()

EXIT_CODE: Final = 70
"""EX_SOFTWARE of sysexits.h: an internal error."""

CHECK_SECONDS: Final = 1.0
PATIENCE_MIN_SECONDS: Final = 90.0
"""Longer than the driver tries to reach a store that does not answer (worker.store.connection)."""


class Watchdog:
    """Watches signs of progress on a thread of its own, and ends the process when one stands still.

    A sign is a function whose value changes while there is progress; None says that there is
    nothing to do, or that what it waits for is somebody else's. Time in which the process was
    frozen does not count.
    """

    def __init__(self, signs: Mapping[str, Callable[[], object]], patience_seconds: float) -> None:
        self._signs = signs
        self._patience = max(patience_seconds, PATIENCE_MIN_SECONDS) / CHECK_SECONDS
        self._seen: dict[str, object] = {}
        self._checks: dict[str, int] = dict.fromkeys(signs, 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer: a worker that stops may take its time."""
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(CHECK_SECONDS):
            for name, sign in self._signs.items():
                if self._stands_still(name, sign()):
                    _end(name, round(self._patience * CHECK_SECONDS))

    def _stands_still(self, name: str, value: object) -> bool:
        if value is None or value != self._seen.get(name):
            self._seen[name] = value
            self._checks[name] = 0
        self._checks[name] += 1
        return self._checks[name] > self._patience


def _end(name: str, seconds: int) -> None:
    log.critical("worker.stuck", what=name, seconds=seconds, exit_code=EXIT_CODE)
    # Not an exception: whoever should handle it may be what is stuck.
    os._exit(EXIT_CODE)
