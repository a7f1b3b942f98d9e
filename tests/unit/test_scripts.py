"""The Lua scripts as files: what each needs of the library, and Lua's own limits."""

import re

import lupa.lua51 as lua
import pytest

from worker.store.scripts import LIBRARY, library_text, loaded_texts, needs_of, script_texts

LOCALS_ALLOWED = 200 - 50
"""Lua allows 200 locals in a function; a script that comes near can't be worked on any more."""

TEXTS = {**script_texts(), **{f"library/{name}": library_text(name) for name in LIBRARY}}
MODULE = re.compile(rf"\b({'|'.join(LIBRARY)})\.\w")
QUOTED_OR_COMMENT = re.compile(r"--[^\n]*|'[^'\n]*'")


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_needs_what_it_uses_and_nothing_else(name: str) -> None:
    code = QUOTED_OR_COMMENT.sub("", TEXTS[name])
    own = name.removeprefix("library/")
    assert set(needs_of(TEXTS[name])) == set(MODULE.findall(code)) - {own}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_file_of_the_library_needs_only_what_stands_before_it(name: str) -> None:
    assert set(needs_of(library_text(name))) <= set(LIBRARY[: LIBRARY.index(name)])


@pytest.mark.parametrize("name", loaded_texts())
def test_a_script_compiles_with_many_locals_to_spare(name: str) -> None:
    room = "".join(f"local spare_{number} = 1\n" for number in range(200 - LOCALS_ALLOWED))
    head = "local KEY, CONFIG = {}, {}\n"
    error_of = lua.LuaRuntime().eval("function(text) return select(2, loadstring(text)) end")
    assert error_of(head + room + loaded_texts()[name]) is None


@pytest.mark.parametrize("name", LIBRARY)
def test_what_the_library_returns_is_used_somewhere_else(name: str) -> None:
    returned = re.search(r"\nreturn \{\n(.*)\}\n$", library_text(name), re.DOTALL)
    assert returned, f"{name} returns no table"
    names = re.findall(r"^  (\w+) = ", returned[1], re.MULTILINE)
    others = "".join(text for other, text in TEXTS.items() if other != f"library/{name}")
    others += (  # tests/simulation.py plays the limiter outside the server
        "limiters.pace_of limiters.ready_at limiters.refill limiters.open_limiter"
    )
    unused = [each for each in names if not re.search(rf"\b{name}\.{each}\b", others)]
    assert not unused
