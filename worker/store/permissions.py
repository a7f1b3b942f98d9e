"""What the server's user must be allowed to do, as far as the server reports it (Redis 7, Valkey).

`config/redis-acl.conf` grants it. This module checks it, so that errors name what is missing.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from worker.store.keys import CATALOGUE
from worker.store.messages import JUNK
from worker.store.scripts import Scripts, loaded_texts

_CHANNELS: Final = ("/{db}.celery.pidbox", "/{db}.celeryev/worker.*")
"""Celery's remote control, and the events that Flower shows."""

_KEYS: Final = (
    *(key.name for key in CATALOGUE),
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
_OF_ANY_KEY: Final = ("get", "hget", "llen", "zadd")
"""A user that may run none of these on a key has no access to the key."""

_CALL: Final = re.compile(r"redis\.call\('(\w+)'")


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
    called = {name.lower() for text in loaded_texts().values() for name in _CALL.findall(text)}
    commands = sorted(_COMMANDS | called)
    channels = [channel.format(db=db) for channel in _CHANNELS]
    asked = [
        *((name, [*name.split("|"), key, key]) for name in commands for key in _KEYS),
        *((key, [name, key]) for key in _KEYS for name in _OF_ANY_KEY),
        *((channel, ["psubscribe", channel]) for channel in channels),
    ]
    reply = await Scripts(redis, {}).call("audit_permissions", commands=[w for _, w in asked])
    allowed = {name for (name, _), may in zip(asked, reply["allowed"], strict=True) if may}
    return Missing(*(_without(names, allowed) for names in (commands, _KEYS, channels)))


def _without(names: Iterable[str], allowed: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in allowed)
