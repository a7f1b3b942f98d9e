"""Connections to the store."""

from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

SOCKET_TIMEOUT_SECONDS: Final = 15.0
RETRIES: Final = 3


def connect(url: str) -> "Redis":
    """Return a client of the store; it connects when first used.

    A command that fails for want of a connection is sent again a few times: every script may run
    twice, because each compares the state and lease that it found.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # junk on the requests stream is text like any other
        health_check_interval=30,
        socket_connect_timeout=5.0,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
