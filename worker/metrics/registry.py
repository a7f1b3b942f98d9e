"""Where the measurements of this process go: to its own values, or to the process that forked it.

A pool of forked processes admits requests in its processes, and the conductor runs in the main
process. Only the main process serves metrics. So a forked process writes its measurements into a
pipe, one line each. Such a write is atomic, and no lock is left behind if the process is killed.

This is the only state of the metrics that a whole process shares.
"""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from worker.metrics.catalogue import BY_NAME, LOST_MEASUREMENTS, Metric

if TYPE_CHECKING:
    from worker.metrics.values import Values

LONGEST_LINE: Final = 512
"""What POSIX lets a process write into a pipe in one piece."""


class Recorder(Protocol):
    """Takes measurements. Callable from any thread; never waits and never raises."""

    def add(
        self,
        metric: Metric,
        value: float,
        *labels: str,
        exemplar: Mapping[str, str] | None = None,
    ) -> None:
        """Increase a counter by `value`, or observe it in a histogram.

        `exemplar` is what led to the value, such as a trace.
        """
        ...


class _Nothing:
    def add(
        self,
        metric: Metric,
        value: float,
        *labels: str,
        exemplar: Mapping[str, str] | None = None,
    ) -> None: ...


class Forwarder:
    """Writes measurements into the pipe `descriptor`; if it is full, they are counted as lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lost = 0

    def add(
        self,
        metric: Metric,
        value: float,
        *labels: str,
        exemplar: Mapping[str, str] | None = None,  # noqa: ARG002 - calls are made in the main process
    ) -> None:
        """Write one measurement, and before it the number of those that were lost."""
        if self._lost and self._write(LOST_MEASUREMENTS, self._lost):
            self._lost = 0
        if not self._write(metric, value, *labels):
            self._lost += 1

    def _write(self, metric: Metric, value: float, *labels: str) -> bool:
        line = json.dumps([metric.name, value, *labels]).encode() + b"\n"
        if len(line) > LONGEST_LINE:
            return False
        try:
            return os.write(self._descriptor, line) == len(line)
        except OSError:  # the pipe is full, or the main process is gone
            return False


def take_in(descriptor: int, recorder: Recorder) -> None:
    """Record what comes through the pipe, until its last writer has closed it."""
    with os.fdopen(descriptor, "rb") as lines:
        for line in lines:
            # a process that is killed in a write leaves no part of a line, so nothing is expected
            with suppress(ValueError, KeyError):
                name, value, *labels = json.loads(line)
                recorder.add(BY_NAME[name], value, *labels)


class _Process:
    """The recorder of this process, and the pipe from the processes that it forks."""

    def __init__(self) -> None:
        self.recorder: Recorder = _Nothing()
        self._reading = self._writing = -1

    def open(self) -> "Values":
        """Record into new values from now on, and return them. Call it before any fork."""
        from worker.metrics.values import Values  # noqa: PLC0415 - slow, and rarely needed

        values = Values()
        self.recorder = values
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        os.register_at_fork(after_in_child=self._forward)
        return values

    def receive(self) -> None:
        """Begin to take in what forked processes measure."""
        threading.Thread(
            target=take_in,
            args=(self._reading, self.recorder),
            name="measurements",
            daemon=True,
        ).start()

    def _forward(self) -> None:
        self.recorder = Forwarder(self._writing)


_process = _Process()
open_values = _process.open
receive_measurements = _process.receive


def recorder_of_process() -> Recorder:
    """Return the recorder of this process; it records nothing unless `open_values` was called."""
    return _process.recorder
