"""The Lua scripts as files: what each needs of the library, and the limits of Lua."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import lupa.lua51 as lua
import pytest

from tests.support import PROJECT
from worker.store.scripts import LIBRARY, library_text, loaded_texts, needs_of, script_texts

LOCALS_ALLOWED = 200 - 50
"""Lua allows 200 locals in a function; a script near that limit can't be extended."""

TEXTS = {**script_texts(), **{f"library/{name}": library_text(name) for name in LIBRARY}}
MODULE = re.compile(rf"\b({'|'.join(LIBRARY)})\.\w")
OWN_FUNCTION = re.compile(r"^local function (\w+)(.*?)^end$", re.MULTILINE | re.DOTALL)
QUOTED_OR_COMMENT = re.compile(r"--[^\n]*|'[^'\n]*'")


@pytest.mark.parametrize("name", TEXTS)
def test_a_script_declares_exactly_the_library_files_that_it_uses(name: str) -> None:
    code = QUOTED_OR_COMMENT.sub("", TEXTS[name])
    own = name.removeprefix("library/")
    assert set(needs_of(TEXTS[name])) == set(MODULE.findall(code)) - {own}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_file_needs_only_earlier_files(name: str) -> None:
    assert set(needs_of(library_text(name))) <= set(LIBRARY[: LIBRARY.index(name)])


@pytest.mark.parametrize("name", loaded_texts())
def test_a_script_compiles_with_many_locals_to_spare(name: str) -> None:
    room = "".join(f"local spare_{number} = 1\n" for number in range(200 - LOCALS_ALLOWED))
    head = "local KEY, CONFIG, SHARES, BINS, SAY, RECORD = {}, {}, {}, {}, {}, {}\n"
    error_of = lua.LuaRuntime().eval("function(text) return select(2, loadstring(text)) end")
    assert error_of(head + room + loaded_texts()[name]) is None


@pytest.mark.parametrize("name", LIBRARY)
def test_what_a_library_file_returns_is_used_in_another_file(name: str) -> None:
    returned = re.search(r"\nreturn \{\n(.*)\}\n$", library_text(name), re.DOTALL)
    assert returned, f"{name} returns no table"
    names = re.findall(r"^  (\w+) = ", returned[1], re.MULTILINE)
    others = "".join(text for other, text in TEXTS.items() if other != f"library/{name}")
    others += (  # tests/quotas.py and tests/schedules.py run outside the server
        "limiters.pace_of limiters.ready_at limiters.refill limiters.open_limiter"
        " durations.with_job"
    )
    unused = [each for each in names if not re.search(rf"\b{name}\.{each}\b", others)]
    assert not unused


OF_EVERY_ANSWER = {"answers", "id", "lease", "lane", "call", "grant", "answered", "observed"}
"""What `worker.store.recording` passes to each script that records an answer."""

NONE = set[str]()
CALLS = {"call": NONE, "call_replicated": NONE, "_lasting": NONE, "_step": OF_EVERY_ANSWER}


@pytest.mark.parametrize("name", script_texts())
def test_a_header_lists_the_members_that_a_script_reads_and_is_given(name: str) -> None:
    text = script_texts()[name]
    named = members_in_header(text)
    code = QUOTED_OR_COMMENT.sub("", text)
    assert set(re.findall(r"\bargs\.(\w+)", code)) <= named
    words = set(re.findall(r"\w+", re.sub(r"--[^\n]*", "", text)))  # some are in lists
    assert named - words <= (OF_EVERY_ANSWER if "answers.note_answer(" in code else NONE)
    given = [members for called, members in calls_of_scripts() if called == name]
    assert given, "the worker never calls it"
    assert all(members == named for members in given), given


@pytest.mark.parametrize("name", script_texts())
def test_a_script_returns_one_json_object(name: str) -> None:
    text = script_texts()[name]
    assert "-- Returns JSON: " in text
    functions = dict(OWN_FUNCTION.findall(text))
    objects = {"cjson.encode(", "'{}'"}
    while more := {each + "(" for each in functions if set(returns(functions[each])) <= objects}:
        objects |= more
        functions = {each: body for each, body in functions.items() if each + "(" not in more}
    returned = returns(OWN_FUNCTION.sub("", text))
    assert returned, "it returns nothing"
    assert set(returned) <= objects


def returns(code: str) -> list[str]:
    """Return the beginning of each `return` in Lua code, up to the bracket of a call."""
    return re.findall(r"\breturn\b *('[^']*'|[\w.]*\(?)", re.sub(r"--[^\n]*", "", code))


@pytest.mark.parametrize("name", script_texts())
def test_a_header_lists_the_members_that_a_script_returns(name: str) -> None:
    text = script_texts()[name]
    code = re.sub(r"--[^\n]*", "", text)
    if "health.note(" in code:
        code += library_text("health") + library_text("answers")
    tables = "".join(
        re.findall(r"(?:encode\(|\w+\[#\w+ \+ 1\] = |reply = )\{(.*?)\}", code, re.DOTALL)
    )
    returned = {*re.findall(r"(\w+) =(?!=)", tables), *re.findall(r"\breply\.(\w+)", code)}
    assert members_in_returns(text) == returned


def members_in_returns(text: str) -> set[str]:
    """Return the members of the JSON object that a script returns, by its header."""
    comment = "".join(line[2:] for line in text.splitlines() if line.startswith("--"))
    returned = comment.partition("Returns JSON:")[2].partition("Atomic")[0]
    members = re.split(r"[.;]", without_remarks(returned))[0]
    return set(re.findall(r"[a-z_]+", members)) - {"and", "each"}


def members_in_header(text: str) -> set[str]:
    """Return the members of the JSON object that a script takes, by its header."""
    comment = "".join(line[2:] for line in text.splitlines() if line.startswith("--"))
    taken = re.split(r"Returns|Atomic", comment.partition("JSON object:")[2])[0]
    return set(re.findall(r"[a-z_]+", without_remarks(taken))) - {"empty"}


def without_remarks(text: str) -> str:
    """Return a header's text without parentheses and their content."""
    return re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", text)


@cache
def calls_of_scripts() -> list[tuple[str, set[str]]]:
    """Return every call of a script in the worker's code: the script's name and its arguments."""
    return list(_calls_of_scripts())


def _calls_of_scripts() -> Iterator[tuple[str, set[str]]]:
    for path in Path(PROJECT / "worker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=method) | ast.Name(id=method),
                    args=[ast.Constant(value=str(name)), *_],
                    keywords=keywords,
                ) if method in CALLS and name in script_texts():
                    yield name, {str(keyword.arg) for keyword in keywords} | CALLS[method]
