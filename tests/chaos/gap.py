"""A worker that dies where kombu has popped a message: before it notes that, or a moment after.

DIES says which: `before` unless set to `after`.
"""

import os
import signal
from typing import Any

from kombu.transport.redis import QoS

from worker.celery import app

__all__ = ["app"]

_note = QoS.append


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _note_and_die(*arguments: Any) -> None:
    _note(*arguments)
    _die()


QoS.append = _note_and_die if os.environ.get("DIES") == "after" else _die  # type: ignore[assignment,method-assign]  # that is the point
