"""Run `celery` with a clock that is off by CLOCK_SKEW_SECONDS.

`python -m tests.chaos.skewed_clock` changes the clock before it imports anything that reads it.
"""

import datetime as dt
import os
import time
from typing import Any, Final

SKEW_SECONDS: Final = float(os.environ["CLOCK_SKEW_SECONDS"])

_true_time = time.time
_TrueDatetime = dt.datetime


class _AnyDatetime(type):
    """Accepts instances of the original class, which C code creates."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _TrueDatetime)


class SkewedDatetime(_TrueDatetime, metaclass=_AnyDatetime):
    """A datetime whose `now` follows the changed clock."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(dt.UTC).replace(tzinfo=None)


def _skewed_time() -> float:
    return _true_time() + SKEW_SECONDS


def main() -> None:
    """Change the clock and run Celery."""
    time.time = _skewed_time
    dt.datetime = SkewedDatetime  # type: ignore[misc]  # the replacement is the purpose

    from celery.__main__ import main as celery  # noqa: PLC0415 - only after the clock has changed

    celery()


if __name__ == "__main__":
    main()
