"""What the server reports about itself. Nothing here writes."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from worker.store.connection import primary_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What the server reports about itself. Sizes are in bytes, 0 for no limit.

    `primary` is the address that Sentinels or the cluster name; '' if there are none.
    """

    name: str
    version: str
    role: str
    primary: str
    appendonly: bool
    replicas: int
    cluster: bool
    maxmemory_bytes: int
    maxmemory_policy: str
    used_bytes: int


async def read_server(redis: "Redis") -> ServerFacts:
    """Return what the server reports about itself. Runs INFO only: CONFIG may be forbidden."""
    info: Any = await redis.info()
    valkey = info.get("valkey_version")
    return ServerFacts(
        name="Valkey" if valkey else "Redis",
        version=str(valkey or info.get("redis_version", "")),
        role=str(info.get("role", "")),
        primary=primary_of(redis),
        appendonly=bool(info.get("aof_enabled")),
        replicas=int(info.get("connected_slaves", 0)),
        cluster=bool(info.get("cluster_enabled")),
        maxmemory_bytes=int(info.get("maxmemory", 0)),
        maxmemory_policy=str(info.get("maxmemory_policy", "")),
        used_bytes=int(info.get("used_memory", 0)),
    )
