"""The consumer of a worker: a message that Celery can't take hurts nobody, and leaves a trace.

Celery's own lets an exception that a strange header raises climb up, and the worker ends; each
worker that takes the message next ends as well. What it does foresee, it drops with no more than a
line in its log. Here both become a rejected import, under the task's id where that is possible.
A queue that its broker has otherwise ends the worker, in place of being tried for ever.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import structlog
from amqp.exceptions import PreconditionFailed
from celery.exceptions import InvalidTaskError, WorkerShutdown
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict
from vine import promise

from worker.runtime import runtime_of_process
from worker.store.connection import StoreUnavailableError

log = structlog.get_logger()
_logger = get_logger(__name__)

_DELAYED_DELIVERY: Final = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""Celery's own way with countdowns on quorum queues: 28 more, for producers of other exchanges."""

_STEPS: Final = [step for step in Consumer.Blueprint.default_steps if step != _DELAYED_DELIVERY]

_REMEDY: Final = (
    "let producers declare the queue as workers do: durable, of the type in IMPORTS_QUEUE_TYPE,"
    " without other arguments; the queue that is there can be deleted once it is empty"
)

Text = Annotated[str, Field(max_length=10_000)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Headers(_Part):
    id: Annotated[str, Field(min_length=1, max_length=255)]
    task: Annotated[str, Field(min_length=1, max_length=255)]
    root_id: Text | None = None
    parent_id: Text | None = None
    group: Text | None = None
    group_index: int | None = None
    eta: Text | None = None
    expires: Text | float | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    timelimit: tuple[float | None, float | None] | None = Field(default=None, strict=False)
    shadow: Text | None = None
    origin: Text | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int | None = None
    stamped_headers: list[Text] | None = None
    stamps: dict[Text, Any] | None = None


class _Properties(_Part):
    correlation_id: Text | None = None
    reply_to: Text | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None


class _Signature(TypedDict):
    task: Text
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]


class _Embedded(_Part):
    callbacks: list[_Signature] | None = None
    errbacks: list[_Signature] | None = None
    chain: list[_Signature] | None = None
    chord: _Signature | None = None


_BODY: Final = TypeAdapter(tuple[list[Any], dict[str, Any], _Embedded])


class ImportsConsumer(Consumer):
    """Celery's consumer, for messages of any kind."""

    connection_errors: tuple[type[Exception], ...]  # Celery's own; its stubs leave it out

    Blueprint = type("Blueprint", (Consumer.Blueprint,), {"default_steps": _STEPS})

    def connect(self) -> Any:
        """Return a new connection, on which every queue is declared.

        The producers' as well where others consume it: messages that come back return to it.
        """
        connection = super().connect()
        try:
            with connection.channel() as channel:
                for queue in self.app.amqp.queues.values():
                    queue(channel).declare()
        except PreconditionFailed as error:
            log.critical("queue.refused", error=error.reply_text, remedy=_REMEDY)
            connection.close()
            raise WorkerShutdown(1) from error
        except BaseException:
            connection.collect()
            raise
        return connection

    def create_task_handler(self, promise: Any = promise) -> Callable[[Any], Any]:
        """Return what is called with each message."""
        handle = super().create_task_handler(promise)

        def on_task_received(message: Any) -> Any:
            try:
                _check(message)
                return handle(message)
            except self.connection_errors:
                raise
            except Exception as error:  # noqa: BLE001 - headers of any make fail in any way
                return self._refuse(message, error)

        return on_task_received

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """Refuse what is of no protocol that Celery knows."""
        self._refuse(message, InvalidTaskError("of no known protocol"))

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Refuse a message of which a member is wrong, or its content type."""
        self._refuse(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuse a message whose body can't be read."""
        self._refuse(message, exc)

    def _refuse(self, message: Any, error: Exception) -> None:
        runtime = runtime_of_process(self.app)
        headers = message.headers if isinstance(message.headers, dict) else {}
        refusing = runtime.admitter.reject_message(headers.get("id"), message.delivery_tag, error)
        try:
            runtime.run(refusing)
        except StoreUnavailableError:
            message.requeue_log_error(_logger, self.connection_errors)
        else:
            message.reject_log_error(_logger, self.connection_errors)


def _check(message: Any) -> None:
    """Check what Celery takes for granted of a message of protocol 2, the one that we speak.

    Raises:
        ValueError: when a member can't be what Celery takes it for.

    """
    _Headers.model_validate(message.headers)
    _Properties.model_validate(message.properties)
    _BODY.validate_python(message.payload)
