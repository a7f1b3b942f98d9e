"""Connections to a store in a Redis Cluster: to the node that has the store's slot.

A hash tag puts all keys of the store into one slot. So one node has all of them, and a client of
that node can do all that it can do with a single server: pipelines, transactions, scans, the
server's clock. When the slot gets another primary, by a failover or because an operator moves it,
the pool connects to that node instead.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from weakref import proxy

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

Address = tuple[str, int]

CLUSTER_PREFIX: Final = "{imports}:"
"""The beginning of the names of all keys in a cluster. The braces make it a hash tag."""

SLOT: Final = key_slot(CLUSTER_PREFIX.encode())
NODE_SECONDS: Final = 2.0
"""How long to wait for the answer of one node before asking the next."""

_NOT_HERE: Final = (AskError, ClusterDownError, ReadOnlyError, TryAgainError)
"""What a node answers that does not have the slot, or can't serve it. MOVED is an AskError, too."""


class _Connection(Connection):
    """A connection to the node that has the slot when the connection is made."""

    def __init__(self, *, connection_pool: "ClusterPool", **options: Any) -> None:
        super().__init__(**options)
        self._pool = connection_pool

    async def _connect(self) -> None:
        self.host, self.port = await self._pool.find_primary()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except _NOT_HERE as error:
            await self.disconnect()
            raise RedisConnectionError(str(error)) from error


class _TlsConnection(_Connection, SSLConnection):
    """The same with TLS."""


class ClusterPool(BlockingConnectionPool):
    """A blocking pool of connections to the node that has the store's slot.

    `nodes` are those that an operator named. Any one of them that answers knows the others.
    `options` are redis-py's for connections to nodes; `pooling` are those of the pool.
    """

    def __init__(
        self, nodes: Sequence[Address], *, options: dict[str, Any], **pooling: Any
    ) -> None:
        self._nodes = tuple(nodes)
        self._known: dict[Address, None] = dict.fromkeys(nodes)
        self._asking = {
            **options,
            "socket_timeout": NODE_SECONDS,
            "socket_connect_timeout": NODE_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        self.primary: Address | None = None
        self.replicas = 1
        """How many replicas of the primary the nodes know, without those that have failed."""
        kind = _TlsConnection if options.get("ssl") else _Connection
        of_connections = {name: value for name, value in options.items() if name != "ssl"}
        super().__init__(
            connection_class=kind, connection_pool=proxy(self), **of_connections, **pooling
        )

    async def find_primary(self) -> Address:
        """Ask the nodes, the last known primary first, which of them has the slot.

        Raises:
            redis.exceptions.ConnectionError: if none of them says it.

        """
        first = () if self.primary is None else (self.primary,)
        problem: Exception | None = None
        for node in dict.fromkeys((*first, *self._known, *self._nodes)):
            try:
                ranges = await self._ask(node)
            except (RedisError, OSError) as error:
                problem = error
                continue
            if primary := self._read(ranges, node):
                await self._follow(primary)
                return primary
        raise RedisConnectionError(
            f"no node of the cluster serves slot {SLOT}, which has the store's keys"
            + (f": {problem}" if problem else "")
        ) from problem

    async def _ask(self, node: Address) -> Any:
        host, port = node
        async with Redis(host=host, port=port, **self._asking) as redis:
            asking: Any = redis  # redis-py does not annotate this method
            return await asking.execute_command("CLUSTER", "SLOTS")

    def _read(self, ranges: Iterable[Any], asked: Address) -> Address | None:
        """Note the nodes that one node reports; return the slot's primary, if there is one."""
        owner: Address | None = None
        known: dict[Address, None] = {}
        for first, last, *nodes in ranges:
            addresses = [_address_of(node, asked) for node in nodes]
            known.update(dict.fromkeys(addresses))
            if first <= SLOT <= last:
                owner, self.replicas = addresses[0], len(addresses) - 1
        if owner is not None:
            self._known = known
        return owner

    async def _follow(self, primary: Address) -> None:
        if self.primary != primary:
            self.primary = primary
            # Idle connections connect to the new primary when they are used next.
            await self.disconnect(inuse_connections=False)


def _address_of(node: Sequence[Any], asked: Address) -> Address:
    """Return a node's address. A node that does not know its own name is the one that was asked."""
    host, port = node[0], node[1]
    return str(host or asked[0]), int(port)


def is_clustered(redis: Any) -> bool:
    """Return whether a client or pipeline is connected to a cluster."""
    return isinstance(redis.connection_pool, ClusterPool)
