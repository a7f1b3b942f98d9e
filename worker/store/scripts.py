"""Loads the Lua scripts and calls them: one JSON object in, one reply out.

Each script is its file behind the library, behind the key catalogue and the configuration, which
are written as Lua here: a key or a limit is spelled in one place.
"""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

from redis.asyncio import Redis

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


class Script(Protocol):
    """A script; the server loads it when it is first called."""

    async def __call__(self, *, args: list[str]) -> Any:
        """Run the script."""
        ...


class Scripts:
    """The scripts of one store, by file name."""

    def __init__(self, redis: "Redis", config: Mapping[str, Any]) -> None:
        prelude = "\n".join((_as_lua_local("KEY", _key_names()), _as_lua_local("CONFIG", config)))
        self._scripts: dict[str, Script] = {
            name: redis.register_script(f"{prelude}\n{library_text(needed_by(text))}\n{text}")
            for name, text in script_texts().items()
        }

    @translated
    async def call(self, name: str, **args: Any) -> Any:
        """Run `name` with `args` as its JSON object; None of them may be None.

        Raises:
            StoreUnavailableError: when the server can't be reached or refuses.

        """
        return await self._scripts[name](args=[json.dumps(args)])


def library_text(names: Sequence[str] = LIBRARY) -> str:
    """Return the text that stands in front of every script, or these files of it."""
    return "\n".join((_DIRECTORY / "library" / f"{name}.lua").read_text() for name in names)


def needed_by(text: str) -> tuple[str, ...]:
    """Return the files of the library that a script uses, in order: each call makes them anew."""
    texts = {name: library_text((name,)) for name in LIBRARY}
    needed: set[str] = set()
    unread = [text]
    while unread:
        words = set(_WORD.findall(_COMMENT.sub("", unread.pop())))
        for name in texts.keys() - needed:
            if not words.isdisjoint(_defined_in(texts[name])):
                needed.add(name)
                unread.append(texts[name])
    return tuple(name for name in LIBRARY if name in needed)


def _defined_in(text: str) -> set[str]:
    """Return what a file of the library defines for those behind it."""
    return {word for names in _DEFINITION.findall(text) for word in _WORD.findall(names)}


def script_texts() -> dict[str, str]:
    """Return each script's own text by its name, without the library."""
    return {
        path.name.removesuffix(".lua"): path.read_text()
        for path in _DIRECTORY.iterdir()
        if path.name.endswith(".lua")
    }


def _key_names() -> dict[str, str]:
    return {key.name.split(":")[1]: key.name for key in CATALOGUE}


def _as_lua_local(name: str, members: Mapping[str, Any]) -> str:
    """Write texts and numbers as a Lua table: cheaper than to decode them at each call."""
    fields = (f"[{json.dumps(key)}] = {json.dumps(value)}" for key, value in members.items())
    return f"local {name} = {{ {', '.join(fields)} }}"
