"""Loads the Lua scripts and calls them: one JSON object in, one reply out.

A script is its file behind the files of the library that its header needs, behind the key catalogue
and the configuration, which are written as Lua here: a key or a limit is spelled in one place. A
file of the library returns one table; it is a local of that file's name to all that need it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from worker.store.connection import translated
from worker.store.keys import CATALOGUE

_DIRECTORY: Final = files("worker.store") / "scripts"
_NEEDS: Final = re.compile(r"^-- needs: (.+)$", re.MULTILINE)

LIBRARY: Final = (
    "base",
    "history",
    "limiters",
    "learning",
    "ceiling",
    "lanes",
    "facts",
    "answers",
    "queues",
    "batches",
    "imports",
)
"""The files of the library, in order: each may need what stands before it."""


class Scripts:
    """The scripts of one store, by file name."""

    def __init__(self, redis: "Redis", config: Mapping[str, Any]) -> None:
        self._redis = redis
        prelude = "\n".join((_as_lua_local("KEY", _key_names()), _as_lua_local("CONFIG", config)))
        self._scripts: dict[str, AsyncScript] = {
            name: redis.register_script(f"{prelude}\n{text}")
            for name, text in loaded_texts().items()
        }

    @translated
    async def call(self, name: str, **args: Any) -> Any:
        """Run `name` with `args` as its JSON object; None of them may be None.

        Raises:
            StoreUnavailableError: when the server can't be reached or refuses.

        """
        return await self._scripts[name](args=[json.dumps(args)])

    async def call_replicated(self, name: str, **args: Any) -> tuple[Any, bool]:
        """Run `name`; return its reply, and whether what it wrote outlives a failover."""
        return await self.call(name, **args), True


def script_texts() -> dict[str, str]:
    """Return each script's own text by its name, without the library."""
    return {
        path.name.removesuffix(".lua"): path.read_text()
        for path in _DIRECTORY.iterdir()
        if path.name.endswith(".lua")
    }


@cache
def library_text(name: str) -> str:
    """Return the text of a file of the library."""
    return (_DIRECTORY / "library" / f"{name}.lua").read_text()


def needs_of(text: str) -> tuple[str, ...]:
    """Return the files of the library that the header of a Lua text says it needs."""
    found = _NEEDS.search(text)
    return tuple(found[1].split(", ")) if found else ()


def with_library(text: str) -> str:
    """Return a Lua text behind all that it needs, directly or not; the server compiles it whole."""
    needed = _all_needs(text)
    modules = (
        f"local {name} = (function()\n{library_text(name)}end)()\n"
        for name in LIBRARY
        if name in needed
    )
    return "".join((*modules, text))


@cache
def loaded_texts() -> Mapping[str, str]:
    """Return each script by its name, with its library."""
    return {name: with_library(text) for name, text in script_texts().items()}


def _all_needs(text: str) -> set[str]:
    needed: set[str] = set()
    more: Iterable[str] = needs_of(text)
    while fresh := set(more) - needed:
        needed |= fresh
        more = [name for module in fresh for name in needs_of(library_text(module))]
    return needed


def _key_names() -> dict[str, str]:
    return {key.name.split(":")[1]: key.name for key in CATALOGUE}


def _as_lua_local(name: str, members: Mapping[str, Any]) -> str:
    """Write texts and numbers as a Lua table: cheaper than to decode them at each call."""
    fields = (f"[{json.dumps(key)}] = {json.dumps(value)}" for key, value in members.items())
    return f"local {name} = {{ {', '.join(fields)} }}"
