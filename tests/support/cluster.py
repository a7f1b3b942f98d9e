"""A real cluster: three primaries, each with a third of the slots, and replicas of the store's.

It is a context manager, and ends every process that it started.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from celery import Celery
from redis.backoff import ConstantBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.support.producer import Producer
from tests.support.servers import IN_MEMORY, Server
from tests.support.waiting import free_port, wait_until
from worker.store.cluster import SLOT

PRIMARIES: Final = 3
SLOTS: Final = 16_384
NODE_TIMEOUT_MS: Final = 2000
"""How long a node may be silent until the others promote one of its replicas."""


class Cluster:
    """Three primaries; the one with the store's slot has `replicas`.

    `acl` is a file of users, which all nodes get; clients use the user `imports` of it.
    """

    def __init__(self, directory: Path, *, replicas: int = 1, acl: Path | None = None) -> None:
        self._login = ""
        settings: dict[str, Any] = {
            **IN_MEMORY,
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            "repl-diskless-sync-delay": 0,
            "repl-ping-replica-period": 1,
        }
        if acl is not None:
            settings["aclfile"] = acl
            self._login = "imports:change-me@"
        # The default for other nodes, 10,000 more than the port for clients, may not exist.
        self._ports = [free_port() for _ in range(PRIMARIES + replicas)]
        self.nodes = [
            Server(directory / f"node-{number}", {**settings, "cluster-port": port})
            for number, port in enumerate(self._ports)
        ]
        self._replicas = replicas

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.__enter__()
            self._meet()
            self._share_slots()
            self._add_replicas()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of the store, which names only some of the nodes."""
        named = self.nodes[:2]
        return ";".join(f"redis+cluster://{self._login}127.0.0.1:{n.port}" for n in named)

    @property
    def primary(self) -> Server:
        """The node that has the store's slot, as the nodes agree."""
        primary = wait_until(self._agreed_primary, "the nodes agree who has the store's slot")
        assert primary is not None
        return primary

    @property
    def replicas(self) -> list[Server]:
        """The replicas of that node."""
        with self.primary.client() as client:
            _, _, connected = client.execute_command("ROLE")
        ports = {int(port) for _, port, _ in connected}
        return [node for node in self.nodes if node.port in ports]

    def fail_over(self) -> None:
        """Let a replica take over while its primary runs."""
        before = self.primary
        with self.replicas[0].client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
        self.wait_for_failover(before)

    def kill_primary(self) -> Server:
        """Kill the node that has the store's slot; return it."""
        killed = self.primary
        killed.kill()
        return killed

    def wait_for_failover(self, before: Server) -> None:
        """Wait until another node than `before` has the store's slot."""
        wait_until(
            lambda: self._agreed_primary() not in {None, before}, "another node has the slot"
        )

    def move_slot(self, to: Server | None = None) -> None:
        """Move the store's slot in one step, to another primary unless `to` names it."""
        before = self.primary
        target = to or next(node for node in self._owners() if node is not before)
        with target.client() as client:
            name = client.execute_command("CLUSTER", "MYID")
        with before.client() as client:
            slots = ("SLOTSRANGE", SLOT, SLOT)
            client.execute_command("CLUSTER", "MIGRATESLOTS", *slots, "NODE", name)
        self.wait_for_failover(before)

    def wait_until_replicated(self) -> None:
        """Wait until each replica of the store's primary follows it."""
        wait_until(lambda: len(self.replicas) == self._replicas, "the replicas follow")

    def client(self) -> Any:
        """Return redis-py's client of a cluster, as producers use it; it waits for failovers."""
        return RedisCluster.from_url(
            f"redis://{self._login}127.0.0.1:{self.nodes[0].port}",
            decode_responses=True,
            retry=Retry(ConstantBackoff(0.2), 150),
        )

    def close(self) -> None:
        """Kill all of the nodes."""
        for node in self.nodes:
            node.kill()

    def _meet(self) -> None:
        for node in self.nodes[1:]:
            with node.client() as client:
                ports = (self.nodes[0].port, self._ports[0])
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", *ports)
        self._wait_for_all(
            lambda client: f"cluster_known_nodes:{len(self.nodes)}" in _info(client),
            "the nodes know each other",
        )

    def _share_slots(self) -> None:
        bounds = [SLOTS * number // PRIMARIES for number in range(PRIMARIES + 1)]
        for node, (first, end) in zip(self.nodes, pairwise(bounds), strict=False):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        self._wait_for_all(is_up, "the cluster is up")

    def _add_replicas(self) -> None:
        with self.primary.client() as client:
            primary = client.execute_command("CLUSTER", "MYID")
        for node in self.nodes[PRIMARIES:]:
            with node.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", primary)
        self.wait_until_replicated()

    def _wait_for_all(self, is_true: Callable[[Any], bool], what: str) -> None:
        for node in self.nodes:
            with node.client() as client:
                wait_until(partial(is_true, client), what)

    def _agreed_primary(self) -> Server | None:
        """Return the node that has the slot, if all nodes that answer say the same."""
        seen = set()
        for node in self.nodes:
            with suppress(RedisError, OSError), node.client() as client:
                seen.add(_port_of_owner(client))
        if len(seen) != 1:
            return None
        return next((node for node in self.nodes if node.port in seen), None)

    def _owners(self) -> list[Server]:
        with self.primary.client() as client:
            ports = {int(nodes[0][1]) for _, _, *nodes in _slots(client)}
        return [node for node in self.nodes if node.port in ports]


def _slots(client: Any) -> Any:
    return client.execute_command("CLUSTER", "SLOTS")


def is_up(client: Any) -> bool:
    """Return whether a node sees that each slot is served."""
    return "cluster_state:ok" in _info(client)


def _info(client: Any) -> str:
    return str(client.execute_command("CLUSTER", "INFO"))


def _port_of_owner(client: Any) -> int | None:
    for first, last, *nodes in _slots(client):
        if first <= SLOT <= last:
            return int(nodes[0][1])
    return None


class ClusterProducer(Producer):
    """A producer for a store in a cluster, with the broker and the results elsewhere."""

    prefix = "{imports}:"

    def __init__(self, cluster: Cluster, broker_url: str) -> None:
        self.store_url = cluster.url
        self.app = Celery("producer", broker=broker_url, backend=broker_url, set_as_current=False)
        self.redis = cluster.client()
