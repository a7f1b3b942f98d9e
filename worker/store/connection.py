"""Connections to the store."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

P = ParamSpec("P")
T = TypeVar("T")

SOCKET_TIMEOUT_SECONDS: Final = 15.0
RETRIES: Final = 3
MAX_CONNECTIONS: Final = 24
"""Two of them wait for hints and for requests; a script holds one for a tenth of a millisecond."""


class StoreUnavailableError(Exception):
    """The store can't be reached, or refuses: it loads, is read-only, or has no memory left."""


def translated(
    function: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a coroutine function raise StoreUnavailableError in place of the driver's errors."""

    @wraps(function)
    async def translating(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(str(error) or type(error).__name__) from error

    return translating


def connect(url: str) -> "Redis":
    """Return a client of the store; it connects when first used.

    A command that fails for want of a connection is sent again a few times. Every script may run
    twice: most compare the state and lease that they find; a claim whose reply was lost falls
    silent and is taken up again after its lease; a failure or a 429 that counts twice is harmless.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        # Calls wait for one another here; with redis-py's plain pool they would fail instead.
        max_connections=MAX_CONNECTIONS,
        timeout=SOCKET_TIMEOUT_SECONDS,
        decode_responses=True,
        encoding_errors="replace",  # junk on the requests stream is text like any other
        health_check_interval=30,
        socket_connect_timeout=5.0,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
    return Redis.from_pool(pool)
