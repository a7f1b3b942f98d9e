"""What the server's user must be allowed to do, as far as the server reports it (Redis 7, Valkey).

`config/redis-acl.conf` grants it. This module checks it, so that errors name what is missing.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from worker.store.cluster import is_clustered
from worker.store.keys import CATALOGUE, name_on
from worker.store.messages import JUNK
from worker.store.scripts import Scripts, loaded_texts

_CHANNELS: Final = ("/{db}.celery.pidbox", "/{db}.celeryev/worker.*")
"""Celery's remote control, and the events that Flower shows."""

_STORE_KEYS: Final = tuple(key.name for key in CATALOGUE)
_CELERY_KEYS: Final = (
    *("imports", "imports.admit", "imports.finish", JUNK),
    *("unacked", "unacked_index", "unacked_mutex", "_kombu.binding.imports"),
    *("celery-task-meta-0", "celery-taskset-meta-0.j", "0.reply.celery.pidbox"),
)
_COMMANDS: Final = frozenset(
    (
        *("blmove", "blpop", "brpop", "evalsha", "exec", "get", "hdel", "hgetall", "lindex"),
        *("llen", "lpush", "lrange", "mget", "multi", "script|load", "set", "setex", "smembers"),
        *("srem", "time", "xack", "xautoclaim", "xdel", "xgroup|create", "xgroup|delconsumer"),
        *("xinfo|consumers", "xrange", "xread", "xreadgroup", "xrevrange"),
    )
)
_CLUSTER_COMMANDS: Final = frozenset(("cluster|slots", "role", "wait"))
"""What clients of a cluster need besides, to find the primary and to wait for its replicas."""

_OF_ANY_KEY: Final = ("get", "hget", "llen", "zadd")
"""A user that may run none of these on a key has no access to the key."""

_CALL: Final = re.compile(r"redis\.call\('(X(?:INFO|GROUP)', '\w+|\w+)'")
"""A command in a script, and its subcommand if it has one."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What a user may not do. Without channels there is no remote control and no Flower."""

    commands: tuple[str, ...]
    keys: tuple[str, ...]
    channels: tuple[str, ...]


async def missing_permissions(redis: "Redis", db: int) -> Missing:
    """Return what this client's user may not do.

    Raises StoreUnavailableError, also if the user may run no script.
    """
    found = {name for text in loaded_texts().values() for name in _CALL.findall(text)}
    called = {name.lower().replace("', '", "|") for name in found}
    in_cluster = is_clustered(redis)  # then Celery's keys and channels are on another server
    commands = sorted(_COMMANDS | called | (_CLUSTER_COMMANDS if in_cluster else set()))
    keys = [name_on(redis, name) for name in _STORE_KEYS]
    keys += () if in_cluster else _CELERY_KEYS
    channels = () if in_cluster else [channel.format(db=db) for channel in _CHANNELS]
    asked = [
        *((name, [*name.split("|"), key, key]) for name in commands for key in keys),
        *((key, [name, key]) for key in keys for name in _OF_ANY_KEY),
        *((channel, ["psubscribe", channel]) for channel in channels),
    ]
    reply = await Scripts(redis, {}).call("audit_permissions", commands=[w for _, w in asked])
    allowed = {name for (name, _), may in zip(asked, reply["allowed"], strict=True) if may}
    return Missing(*(_without(names, allowed) for names in (commands, keys, channels)))


def _without(names: Iterable[str], allowed: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in allowed)
