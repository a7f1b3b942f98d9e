"""A worker that fails on every message by a fault of its own; and a pool that can't run here."""

from typing import Any

from celery import bootsteps
from celery.concurrency.solo import TaskPool

from worker.celery import app

__all__ = ["app"]


class Green(TaskPool):
    """Says of itself that it is of green threads."""

    is_green = True


class FaultStep(bootsteps.StartStopStep):
    """Lets the worker fail once a message was found to be good, as a broken autoscaler does."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Break it."""
        consumer.on_task_message.add(_fail)


def _fail(_request: Any) -> None:
    raise AttributeError("'TaskPool' object has no attribute 'grow'")


app.steps["consumer"].add(FaultStep)
