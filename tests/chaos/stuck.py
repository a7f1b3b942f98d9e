"""A worker one part of which hangs; STUCK names the part."""

import os
import time
from typing import Any, Final

from celery import bootsteps
from celery.signals import worker_ready

from worker import watchdog
from worker.celery import app
from worker.runtime import runtime_of_process

__all__ = ["app"]

STUCK: Final = os.environ["STUCK"]
FOR_EVER_SECONDS: Final = 1000
PATIENCE_SECONDS: Final = 10

watchdog.PATIENCE_MIN_SECONDS = PATIENCE_SECONDS  # type: ignore[misc]  # the tests wait less


class StuckStep(bootsteps.StartStopStep):
    requires = ("worker.celery:PulseStep",)

    def start(self, consumer: Any) -> None:
        if STUCK == "consumer":
            consumer.timer.call_after(1, time.sleep, (FOR_EVER_SECONDS,))


async def _hang() -> None:
    time.sleep(FOR_EVER_SECONDS)  # noqa: ASYNC251 - the loop must block


@worker_ready.connect
def _be_stuck(sender: Any, **_: Any) -> None:
    if STUCK == "conductor":
        runtime_of_process(app).begin(_hang())
    if STUCK == "queues":
        sender.task_consumer.cancel()


app.steps["consumer"].add(StuckStep)
