"""Changes to kombu's and Celery's transports that this project relies on.

They change kombu's own classes, because Celery creates the objects and the Sentinel classes inherit
from them. The lock file pins the versions.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Final

import structlog
from amqp.exceptions import IrrecoverableConnectionError
from celery.backends import redis as redis_results
from kombu.transport import pyamqp, redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError
from redis.retry import Retry

log = structlog.get_logger()

_ABOUT_CHANNELS: Final = re.compile(r"channel|'publish'|subscribe'")

BRPOP_SECONDS: Final = 5
"""Shorter than the timeout of a worker's sockets."""

transport: Final[Any] = redis  # its annotations leave out what is changed here
results: Final[Any] = redis_results
_put_fanout: Final = transport.Channel._put_fanout  # noqa: SLF001 - there is no other place
_receive_one: Final = transport.Channel._receive_one  # noqa: SLF001
_set: Final = results.RedisBackend._set  # noqa: SLF001
_connparams: Final = transport.Channel._connparams  # noqa: SLF001 - there is no other place
_close: Final = transport.Channel.close


def keep_time(now: Callable[[], float]) -> None:
    """Make kombu use the clock `now`, in seconds.

    kombu notes the delivery of a message with its own machine's clock, and compares it with another
    machine's clock. If a worker whose clock is an hour ahead takes a message and dies, the message
    would come back an hour late.
    """
    transport.time = now


def outlive_lost_connections() -> None:
    """Make operations on a channel raise a connection error if the connection is gone.

    Messages are restored and acknowledged on old channels. Without this, Celery does not recognize
    the error as a connection error, and the worker ends.
    """
    transport.Channel._connparams = _connparams_if_open  # noqa: SLF001


def close_at_once() -> None:
    """Make a channel that is closed end its BRPOP at the server.

    kombu waits for the reply, because it may bring a message. Without one, this takes up to a
    second.
    """
    transport.Channel.close = _close_at_once


def ask_seldom() -> None:
    """Make a worker that waits for messages repeat its BRPOP every few seconds, not every second.

    The reply comes as soon as there is a message, however long the wait may be.
    """
    transport.Transport.brpop_timeout = BRPOP_SECONDS


def limit_each_consumer() -> None:
    """Make RabbitMQ limit each consumer's messages, not each channel's.

    Quorum queues support only this, and close a connection that uses the other way. The virtual
    host may make a queue a quorum queue, and clients can't see that.
    """
    rabbitmq: Any = pyamqp.Transport
    rabbitmq.qos_semantics_matches_spec = lambda *_: True


def do_without_channels() -> None:
    """Keep a worker running whose user may not use pub/sub channels.

    Channels carry remote control, the events for Flower, and a hint that a result is there. No
    import needs them. Without this, each refusal ends the worker or loses a result.
    """
    transport.Channel._put_fanout = _publish_if_allowed  # noqa: SLF001
    transport.Channel._receive_one = _receive_if_allowed  # noqa: SLF001
    results.RedisBackend._set = _set_and_publish_if_allowed  # noqa: SLF001


def _publish_if_allowed(channel: Any, *args: Any, **kwargs: Any) -> None:
    try:
        _put_fanout(channel, *args, **kwargs)
    except NoPermissionError as error:
        _warn_once(str(error))


def _receive_if_allowed(channel: Any, client: Any) -> Any:
    try:
        return _receive_one(channel, client)
    except NoPermissionError as error:  # the reply to PSUBSCRIBE
        _warn_once(str(error))
        return None


def _set_and_publish_if_allowed(backend: Any, key: str, value: Any, expires: Any = None) -> None:
    try:
        _set(backend, key, value, expires)
    except NoPermissionError as error:  # nothing was set, because it is one transaction
        if not about_channels(str(error)):
            raise
        _warn_once(str(error))
        backend.client.set(key, value, ex=(backend.expires if expires is None else expires) or None)


def about_channels(refusal: str) -> bool:
    """Return whether the server refused nothing but pub/sub."""
    return _ABOUT_CHANNELS.search(refusal) is not None


@cache
def _warn_once(refusal: str) -> None:
    log.warning("channels.refused", error=refusal)


class BrokerBlockedError(IrrecoverableConnectionError):
    """RabbitMQ has raised an alarm and accepts no messages."""


class _RefusingConnection(pyamqp.Connection):
    """A connection that fails when it is blocked, instead of waiting for a confirmation forever."""

    def _on_blocked(self) -> None:
        self.collect()
        raise BrokerBlockedError("blocked by an alarm: the broker is out of memory or disk space")


def refuse_to_be_blocked() -> None:
    """Treat a broker that accepts no messages as unreachable, so that nothing waits for it."""
    rabbitmq: Any = pyamqp.Transport
    rabbitmq.Connection = _RefusingConnection


def _close_at_once(channel: Any) -> None:
    if channel._in_poll:  # noqa: SLF001 - there is no other place
        with suppress(RedisError):  # then the reply comes later
            _unblock(channel)
    _close(channel)


def _unblock(channel: Any) -> None:
    hello = channel.client.connection.handshake_metadata or {}  # the reply to HELLO
    client_id = hello.get(b"id") or hello.get("id")
    if client_id is None:
        return
    other = channel.pool.make_connection()
    other.retry = Retry(NoBackoff(), 0)  # the server may be gone
    try:
        other.send_command("CLIENT", "UNBLOCK", client_id)
        other.read_response()
    finally:
        other.disconnect()


def _connparams_if_open(channel: Any, *args: Any, **kwargs: Any) -> Any:
    if channel.connection is None or channel.connection.client is None:
        raise RedisConnectionError("the connection of this channel is closed")
    return _connparams(channel, *args, **kwargs)
