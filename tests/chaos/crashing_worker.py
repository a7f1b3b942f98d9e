"""A worker that is killed or frozen at a boundary by `crash_points`."""

import signal
from typing import Final

from tests.support import Worker

FROZEN_MESSAGE: Final = "frozen at its boundary"
"""What a worker writes before it stops itself."""


class CrashingWorker(Worker):
    """A forked worker, with the properties that the crash trial needs."""

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.process.poll() == -signal.SIGKILL

    @property
    def is_frozen(self) -> bool:
        """Whether it has stopped itself."""
        return FROZEN_MESSAGE in self.log

    def resume(self) -> None:
        """Resume it after SIGSTOP."""
        self.process.send_signal(signal.SIGCONT)
