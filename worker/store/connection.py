"""Connections to the store."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from config.servers import Server, server_of
from worker.store.cluster import ClusterPool

P = ParamSpec("P")
T = TypeVar("T")

SOCKET_TIMEOUT_SECONDS: Final = 15.0
RETRIES: Final = 3
MAX_CONNECTIONS: Final = 24
"""Two connections wait for hints and for requests; a script uses one for a tenth of a
millisecond."""


class StoreUnavailableError(Exception):
    """The store can't be reached or refuses commands: it loads, is read-only or out of memory."""


def translated(
    function: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a coroutine function raise StoreUnavailableError instead of the driver's errors."""

    @wraps(function)
    async def translating(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except MasterNotFoundError as error:
            # The rest of its text describes every Sentinel's connection pool.
            raise StoreUnavailableError(str(error).partition(" : ")[0]) from error
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(str(error) or type(error).__name__) from error

    return translating


class _FollowingPool(SentinelConnectionPool, BlockingConnectionPool):
    """A blocking pool of connections to the server that the Sentinels name as primary."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - as redis-py declares it
        await super().disconnect(inuse_connections)
        # the pool is being closed, and nothing else closes the connections to the Sentinels
        if inuse_connections:
            await self.sentinel_manager.aclose()


def connect(url: str) -> "Redis":
    """Return a client of the store. It connects when it is first used, and follows failovers.

    A command that fails because of its connection is repeated a few times, so every script may run
    twice. Most scripts compare the state and the lease that they find. If the reply to a claim is
    lost, the claim's lease ends and the call is claimed again. A failure or a 429 that counts twice
    does no harm.

    Raises:
        ValueError: when `url` is invalid.

    """
    # Commands wait for a free connection. With redis-py's default pool they would fail.
    pooling = {"max_connections": MAX_CONNECTIONS, "timeout": SOCKET_TIMEOUT_SECONDS}
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",  # junk in the requests stream is read as text
        "health_check_interval": 30,
        "socket_connect_timeout": 5.0,
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), RETRIES),
        # After a failover, the old primary is read-only. A new connection may reach the new
        # primary.
        "retry_on_error": [RedisConnectionError, RedisTimeoutError, ReadOnlyError],
    }
    server = server_of(url)
    if server.is_cluster:
        options |= {**server.login, **server.tls_arguments}
        return Redis.from_pool(ClusterPool(server.hosts, options=options, **pooling))
    if server.master_name:
        return _following(server, options | pooling)
    return Redis.from_pool(BlockingConnectionPool.from_url(server.redis_url, **options, **pooling))


def primary_of(redis: "Redis") -> str:
    """Return the address that Sentinels or the cluster named last; '' if there are none."""
    pool = redis.connection_pool
    address: tuple[str, int] | None = None
    if isinstance(pool, SentinelConnectionPool):
        address = pool.master_address
    elif isinstance(pool, ClusterPool):
        address = pool.primary
    if address is None:
        return ""
    host, port = address
    return f"{host}:{port}"


def _following(server: Server, options: dict[str, Any]) -> "Redis":
    asking = {**server.sentinel_arguments, "retry": Retry(NoBackoff(), 0)}
    sentinels: Any = Sentinel(server.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    tls = server.tls_arguments
    pool: Any = _FollowingPool
    return Redis.from_pool(
        pool(server.master_name, sentinels, db=server.db, **server.login, **tls, **options)
    )
