"""`celery` on a machine whose clock is wrong by CLOCK_SKEW_SECONDS: `python -m tests.chaos.skewed`.

The clock is moved before anything that reads it is imported.
"""

import datetime as dt
import os
import time
from typing import Any, Final

SKEW_SECONDS: Final = float(os.environ["CLOCK_SKEW_SECONDS"])

_true_time = time.time
_TrueDatetime = dt.datetime


class _AnyDatetime(type):
    """Lets those that C code makes pass for ours."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _TrueDatetime)


class SkewedDatetime(_TrueDatetime, metaclass=_AnyDatetime):
    """A datetime that takes the moved clock for the present."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(dt.UTC).replace(tzinfo=None)


def _skewed_time() -> float:
    return _true_time() + SKEW_SECONDS


def main() -> None:
    """Move the clock and be Celery."""
    time.time = _skewed_time
    dt.datetime = SkewedDatetime  # type: ignore[misc]  # that is the point

    from celery.__main__ import main as celery  # noqa: PLC0415 - not before the clock is moved

    celery()


if __name__ == "__main__":
    main()
