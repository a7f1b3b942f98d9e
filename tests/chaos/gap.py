"""A worker that dies where kombu has popped a message and has not noted it yet."""

import os
import signal
from typing import Any

from kombu.transport.redis import QoS

from worker.celery import app

__all__ = ["app"]


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


QoS.append = _die  # type: ignore[assignment,method-assign]  # that is the point
