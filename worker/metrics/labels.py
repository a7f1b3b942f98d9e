"""Bounds the number of different values of a label."""

import threading

from worker.metrics.catalogue import OTHER

LONGEST_LABEL = 128


class Cap:
    """Lets the first `most` different values pass; every later one becomes `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._passed: set[str] = set()
        self._lock = threading.Lock()

    def label(self, value: str) -> str:
        """Return the value, or `other`. Very long values and control characters never pass."""
        if value in self._passed:
            return value
        if len(value) > LONGEST_LABEL or not value.isprintable():
            return OTHER
        with self._lock:
            if len(self._passed) < self._most:
                self._passed.add(value)
                return value
        return OTHER
