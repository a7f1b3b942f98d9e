"""Import tasks between their arrival and their admission, in the worker's main process.

They don't go through Celery's pool. Those that arrive while others are admitted are admitted
together. A message is acknowledged after its admission: if the worker dies before that, the broker
delivers it again, and the second delivery becomes the same import.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from celery import Celery, Task, signals
from celery.app.task import Context
from celery.app.trace import LOG_RECEIVED
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import Request
from celery.worker.strategy import default

from config.names import FINISH_HEADER
from worker.doors.envelopes import envelope_of, members_of
from worker.engine.admit import ADMITTED_TOGETHER, Admitter
from worker.engine.checking import Parcel

_logger = get_logger(__name__)

STRATEGY: Final = f"{__name__}:strategy_of"
"""How Celery finds `strategy_of` (`Task.Strategy`)."""

Arrival = tuple[Request, Parcel]


class Arrivals:
    """The import tasks that this worker has received and not admitted yet.

    `call_soon` calls a function on the event loop; it is called from any thread.
    """

    def __init__(
        self, admitter: Admitter, call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._admitter = admitter
        self._call_soon = call_soon
        self._received: deque[Arrival] = deque()
        self._admitting: list[Arrival] = []
        self._there = asyncio.Event()

    def receive(self, request: Request, parcel: Parcel) -> None:
        """Take a request over from Celery, on its thread."""
        self._received.append((request, parcel))
        self._call_soon(self._there.set)

    def wake(self) -> None:
        """Make `admit` return once nothing is left."""
        self._there.set()

    async def admit(self) -> None:
        """Wait for requests, then admit all that are there.

        Raises:
            Exception: of any kind, if none could be admitted. They stay here, unacknowledged, and
                the next call tries again.

        """
        if not self._gather():
            await self._there.wait()
        self._there.clear()
        while group := self._gather():
            admitted = await self._admit(group)
            self._admitting = [each for each in group if each not in admitted]
            for request, _ in admitted:
                state.task_ready(request, successful=True)
                request.acknowledge()

    def _gather(self) -> list[Arrival]:
        while self._received and len(self._admitting) < ADMITTED_TOGETHER:
            self._admitting.append(self._received.popleft())
        return self._admitting

    async def _admit(self, group: Sequence[Arrival]) -> Sequence[Arrival]:
        """Admit requests together; if that fails, each for itself. Return those admitted."""
        try:
            await self._admitter.admit_tasks([parcel for _, parcel in group])
        except Exception:
            if len(group) == 1:
                raise
        else:
            return group
        errors = await asyncio.gather(
            *(self._admit([each]) for each in group), return_exceptions=True
        )
        admitted = [
            each
            for each, error in zip(group, errors, strict=True)
            if not isinstance(error, BaseException)
        ]
        if not admitted:
            raise next(error for error in errors if isinstance(error, BaseException))
        return admitted


def strategy_of(task: "Task[..., Any]", app: Celery, consumer: Any) -> Callable[..., None]:
    """Return what `consumer` does with a message of an import's task.

    It does what Celery's own strategy does with a task without limits, but for its last step.
    """
    to_pool = default(task, app, consumer)

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        if FINISH_HEADER in message.headers:
            to_pool(message, body, ack, reject, callbacks)
            return
        request = Request(
            message,
            on_ack=ack,
            on_reject=reject,
            app=app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=task,
            connection_errors=consumer.connection_errors,
        )
        _logger.info(LOG_RECEIVED, {"id": request.id, "name": request.name})
        if request.revoked():
            return
        signals.task_received.send(sender=consumer, request=request)
        args, kwargs, embedded = message.payload
        context = Context({**request.request_dict, **embedded, "args": args, "kwargs": kwargs})
        parcel = Parcel(members_of(context), envelope_of(task, context))
        state.task_reserved(request)
        for callback in callbacks:
            callback(request)
        state.task_accepted(request)
        consumer.controller.conductor.arrivals.receive(request, parcel)

    return handle
