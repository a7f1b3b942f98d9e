"""What kombu's transports need to keep the promises of this house (pinned by the lock file).

Changes kombu's own classes, since Celery makes them, and since Sentinel's inherit from them.
"""

from collections.abc import Callable
from typing import Any, Final

from amqp.exceptions import IrrecoverableConnectionError
from kombu.transport import pyamqp, redis
from redis.exceptions import ConnectionError as RedisConnectionError

transport: Final[Any] = redis  # its annotations leave out what is changed here
_connparams: Final = transport.Channel._connparams  # noqa: SLF001 - there is no other place


def keep_time(now: Callable[[], float]) -> None:
    """Let kombu tell the time by `now`, in seconds.

    It notes by its machine's clock when a message was delivered, and compares that with another
    machine's: a message taken by a worker that is an hour ahead, and dies, would be away for that
    hour.
    """
    transport.time = now


def outlive_lost_connections() -> None:
    """Let what is done on a channel fail as it should when its connection is gone.

    Messages are given back and acknowledged on old channels; what they raised for want of a
    connection is no connection error to Celery, and ended the worker.
    """
    transport.Channel._connparams = _connparams_if_open  # noqa: SLF001


def limit_each_consumer() -> None:
    """Let RabbitMQ count what each consumer has been sent, not what each channel has.

    Quorum queues know nothing else, and end a connection that wants more; whether a queue is one
    may be the virtual host's own decision, which no client is told.
    """
    rabbitmq: Any = pyamqp.Transport
    rabbitmq.qos_semantics_matches_spec = lambda *_: True


class BrokerBlockedError(IrrecoverableConnectionError):
    """RabbitMQ has raised an alarm and takes no messages."""


class _RefusingConnection(pyamqp.Connection):
    """A connection that fails when it is blocked; to wait for a confirmation would be to hang."""

    def _on_blocked(self) -> None:
        self.collect()
        raise BrokerBlockedError("blocked by an alarm: the broker is out of memory or disk space")


def refuse_to_be_blocked() -> None:
    """Let a broker that takes no messages be like one that is away: nothing hangs on it."""
    rabbitmq: Any = pyamqp.Transport
    rabbitmq.Connection = _RefusingConnection


def _connparams_if_open(channel: Any, *args: Any, **kwargs: Any) -> Any:
    if channel.connection is None or channel.connection.client is None:
        raise RedisConnectionError("the connection of this channel is closed")
    return _connparams(channel, *args, **kwargs)
