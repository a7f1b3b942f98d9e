"""What kombu's transports need to keep the promises of this house (pinned by the lock file).

Changes kombu's own classes, since Celery makes them, and since Sentinel's inherit from them.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import structlog
from amqp.exceptions import IrrecoverableConnectionError
from celery.backends import redis as redis_results
from kombu.transport import pyamqp, redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

log = structlog.get_logger()

_ABOUT_CHANNELS: Final = re.compile(r"channel|'publish'|subscribe'")

transport: Final[Any] = redis  # its annotations leave out what is changed here
results: Final[Any] = redis_results
_put_fanout: Final = transport.Channel._put_fanout  # noqa: SLF001 - there is no other place
_receive_one: Final = transport.Channel._receive_one  # noqa: SLF001
_set: Final = results.RedisBackend._set  # noqa: SLF001
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


def do_without_channels() -> None:
    """Let a worker live whose user may not use the channels of pub/sub.

    They carry remote control, what Flower shows, and a hint that a result is there. None of it is
    needed for an import, and each refusal ended the worker or lost the result.
    """
    transport.Channel._put_fanout = _publish_if_allowed  # noqa: SLF001
    transport.Channel._receive_one = _receive_if_allowed  # noqa: SLF001
    results.RedisBackend._set = _set_and_publish_if_allowed  # noqa: SLF001


def _publish_if_allowed(channel: Any, *args: Any, **kwargs: Any) -> None:
    try:
        _put_fanout(channel, *args, **kwargs)
    except NoPermissionError as error:
        _tell_once(str(error))


def _receive_if_allowed(channel: Any, client: Any) -> Any:
    try:
        return _receive_one(channel, client)
    except NoPermissionError as error:  # the answer to PSUBSCRIBE
        _tell_once(str(error))
        return None


def _set_and_publish_if_allowed(backend: Any, key: str, value: Any, expires: Any = None) -> None:
    try:
        _set(backend, key, value, expires)
    except NoPermissionError as error:  # nothing is set then: it was one transaction
        if not about_channels(str(error)):
            raise
        _tell_once(str(error))
        backend.client.set(key, value, ex=(backend.expires if expires is None else expires) or None)


def about_channels(refusal: str) -> bool:
    """Tell whether the server refused no more than pub/sub."""
    return _ABOUT_CHANNELS.search(refusal) is not None


@cache
def _tell_once(refusal: str) -> None:
    log.warning("channels.refused", error=refusal)


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
