"""A worker that is killed after kombu has popped a message: before kombu records it, or right
after.

`CRASH_IN_KOMBU` selects the moment: `before` unless set to `after`.
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


QoS.append = _note_and_die if os.environ.get("CRASH_IN_KOMBU") == "after" else _die  # type: ignore[assignment,method-assign]  # the crash is the purpose
