"""Loads the Lua scripts and calls them: one JSON object in, one JSON object out.

A script is loaded behind the library files that its header needs. In front of these come the key
catalogue, the configuration, the shares, the bins of histograms and the sentences, which this
module writes as Lua tables. So each of them is defined in one place. A library file returns one
table. It becomes a local variable with the file's name.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from worker.domain.polling import BINS, BINS_PER_OCTAVE, ENOUGH
from worker.domain.shares import PRIORITY_WEIGHTS, START_SHARE
from worker.store.connection import translated
from worker.store.keys import CATALOGUE, SEQUENCE
from worker.store.observer import NOBODY, StoreObserver
from worker.store.records import script_names
from worker.store.sentences import SENTENCES

_DIRECTORY: Final = files("worker.store") / "scripts"
_NEEDS: Final = re.compile(r"^-- needs: (.+)$", re.MULTILINE)

LIBRARY: Final = (
    "base",
    "records",
    "history",
    "limiters",
    "learning",
    "ceiling",
    "lanes",
    "facts",
    "durations",
    "polls",
    "budget",
    "health",
    "answers",
    "queues",
    "schedules",
    "batches",
    "imports",
    "starting",
)
"""The library files, in order: each may need those before it."""


Reply = Mapping[str, Any]
"""What a script replies, by the names in its header.

Lua encodes an empty list as an empty object. Iterating over it gives the same result.
"""


class Scripts:
    """The scripts of one store, by file name."""

    def __init__(
        self, redis: "Redis", config: Mapping[str, Any], observer: StoreObserver = NOBODY
    ) -> None:
        self._redis = redis
        self._observer = observer
        self._route = SEQUENCE.on(redis)
        """Tells a cluster's nodes where a script runs: with the key, and so with all others."""
        tables = {
            "KEY": _key_names(redis),
            "CONFIG": config,
            "SHARES": _shares(),
            "BINS": {"count": BINS, "per_octave": BINS_PER_OCTAVE, "enough": ENOUGH},
            "SAY": SENTENCES,
            "RECORD": script_names(),
        }
        prelude = "\n".join(_as_lua_local(name, members) for name, members in tables.items())
        self._scripts: dict[str, AsyncScript] = {
            name: redis.register_script(f"{prelude}\n{text}")
            for name, text in loaded_texts().items()
        }

    @translated
    async def call(self, name: str, **args: Any) -> Reply:
        """Run the script `name` with `args` as its JSON object; return its reply.

        None of the arguments may be None.

        Raises:
            StoreUnavailableError: if the server can't be reached or refuses.

        """
        began = time.perf_counter()
        reply = await self._scripts[name](keys=[self._route], args=[json.dumps(args)])
        self._observer.ran(name, time.perf_counter() - began)
        return read_reply(reply)

    async def call_replicated(self, name: str, **args: Any) -> tuple[Reply, bool]:
        """Run `name`; return its reply, and whether its writes outlive a failover."""
        return await self.call(name, **args), True


def read_reply(text: str | bytes) -> Reply:
    """Return the JSON object that a script replied."""
    reply: Reply = json.loads(text)
    return reply


def script_texts() -> dict[str, str]:
    """Return each script's own text by its name, without the library."""
    return {
        path.name.removesuffix(".lua"): path.read_text()
        for path in _DIRECTORY.iterdir()
        if path.name.endswith(".lua")
    }


@cache
def library_text(name: str) -> str:
    """Return the text of a library file."""
    return (_DIRECTORY / "library" / f"{name}.lua").read_text()


def needs_of(text: str) -> tuple[str, ...]:
    """Return the library files that the header of a Lua text names."""
    return tuple(name for line in _NEEDS.findall(text) for name in line.split(", "))


def with_library(text: str) -> str:
    """Return a Lua text behind all library files that it needs, also indirectly."""
    needed = _all_needs(text)
    modules = (
        f"local {name} = (function()\n{library_text(name)}end)()\n"
        for name in LIBRARY
        if name in needed
    )
    return "".join((*modules, text))


@cache
def loaded_texts() -> Mapping[str, str]:
    """Return each script with its library, by its name."""
    return {name: with_library(text) for name, text in script_texts().items()}


def _all_needs(text: str) -> set[str]:
    needed: set[str] = set()
    more: Iterable[str] = needs_of(text)
    while fresh := set(more) - needed:
        needed |= fresh
        more = [name for module in fresh for name in needs_of(library_text(module))]
    return needed


def _key_names(redis: "Redis") -> dict[str, str]:
    return {key.name.split(":")[1]: key.on(redis) for key in CATALOGUE}


def _shares() -> dict[str, Any]:
    return {"priorities": PRIORITY_WEIGHTS, "starts": START_SHARE}


def _as_lua_local(name: str, members: Mapping[str, Any]) -> str:
    """Write a Lua table of texts and numbers, which is cheaper than decoding JSON at each call."""
    return f"local {name} = {_as_lua(members)}"


def _as_lua(value: Any) -> str:
    if not isinstance(value, Mapping):
        return json.dumps(value)
    fields = (f"[{json.dumps(key)}] = {_as_lua(member)}" for key, member in value.items())
    return f"{{ {', '.join(fields)} }}"
