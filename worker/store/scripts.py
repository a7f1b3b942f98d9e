"""Loads the Lua scripts and calls them: one JSON object in, one reply out.

Each script is its file behind what it uses of the library, behind the key catalogue and the
configuration, which are written as Lua here: a key or a limit is spelled in one place.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from worker.store.connection import translated
from worker.store.keys import CATALOGUE

_COMMENT: Final = re.compile(r"--.*")
_WORD: Final = re.compile(r"\w+")
_DEFINITION: Final = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)
_DIRECTORY: Final = files("worker.store") / "scripts"

LIBRARY: Final = (
    "base",
    "limiter",
    "learning",
    "ceiling",
    "lanes",
    "answers",
    "queues",
    "batches",
    "imports",
)
"""The files of the library, in order: each uses what stands before it."""


class Scripts:
    """The scripts of one store, by file name."""

    def __init__(self, redis: "Redis", config: Mapping[str, Any]) -> None:
        self._redis = redis
        prelude = "\n".join((_as_lua_local("KEY", _key_names()), _as_lua_local("CONFIG", config)))
        self._scripts: dict[str, AsyncScript] = {
            name: redis.register_script(f"{prelude}\n{text}")
            for name, text in _texts_with_library().items()
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


def library_text(names: Sequence[str] = LIBRARY) -> str:
    """Return the text of the library, or of these files of it."""
    return "\n".join((_DIRECTORY / "library" / f"{name}.lua").read_text() for name in names)


def script_texts() -> dict[str, str]:
    """Return each script's own text by its name, without the library."""
    return {
        path.name.removesuffix(".lua"): path.read_text()
        for path in _DIRECTORY.iterdir()
        if path.name.endswith(".lua")
    }


@cache
def _texts_with_library() -> Mapping[str, str]:
    """Return each script behind the files of the library that it uses, and no others.

    The server makes their functions anew at each call.
    """
    files_of = {name: library_text((name,)) for name in LIBRARY}
    defined = {name: _defined_in(text) for name, text in files_of.items()}
    used = {name: _words_in(text) for name, text in files_of.items()}

    def needed_by(words: set[str]) -> set[str]:
        needed: set[str] = set()
        while more := {n for n in LIBRARY if n not in needed and words & defined[n]}:
            needed |= more
            words = words.union(*(used[name] for name in more))
        return needed

    texts = script_texts()
    needed = {name: needed_by(_words_in(text)) for name, text in texts.items()}
    return {
        name: "\n".join((library_text([n for n in LIBRARY if n in needed[name]]), text))
        for name, text in texts.items()
    }


def _words_in(text: str) -> set[str]:
    return set(_WORD.findall(_COMMENT.sub("", text)))


def _defined_in(text: str) -> set[str]:
    """Return what a file of the library defines for those behind it."""
    return {word for names in _DEFINITION.findall(text) for word in _WORD.findall(names)}


def _key_names() -> dict[str, str]:
    return {key.name.split(":")[1]: key.name for key in CATALOGUE}


def _as_lua_local(name: str, members: Mapping[str, Any]) -> str:
    """Write texts and numbers as a Lua table: cheaper than to decode them at each call."""
    fields = (f"[{json.dumps(key)}] = {json.dumps(value)}" for key, value in members.items())
    return f"local {name} = {{ {', '.join(fields)} }}"
