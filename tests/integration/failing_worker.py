"""A worker with a defect that makes it fail on every message, and a pool that it can't run."""

from typing import Any

from celery import bootsteps
from celery.concurrency.solo import TaskPool

from worker.celery import app

__all__ = ["app"]


class GreenPool(TaskPool):
    """A pool that claims to use green threads."""

    is_green = True


class FaultStep(bootsteps.StartStopStep):
    """Makes the worker fail after it has decoded a message, as a broken autoscaler does."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Register the failure."""
        consumer.on_task_message.add(_fail)


def _fail(_request: Any) -> None:
    raise AttributeError("'TaskPool' object has no attribute 'grow'")


app.steps["consumer"].add(FaultStep)
