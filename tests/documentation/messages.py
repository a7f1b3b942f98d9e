"""The messages that users meet, collected from the code, to be read as a whole.

A message is the text of an exception that the command line shows or that rejects a request; of a
refused remote control command; the reason of a lane, batch or import; advice of `doctor`; or a line
of an import's history. What the code fills in is shown as `{…}`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import PROJECT
from worker.store.sentences import SENTENCES

RAISED: Final = frozenset(
    {
        *("BadInputError", "FailedHereError", "UnreachableError", "NotKnownError", "NotDoneError"),
        *("BatchFileError", "SettingsError", "StateError", "ServerError", "WorkersError"),
        *("BadParameter", "UsageError", "ClickException", "ValueError", "InvalidTaskError"),
        *("InvalidRequestError", "BrokerBlockedError", "StoreUnavailableError", "fail", "_nok"),
        *("echo", "print_result"),
    }
)
"""The calls whose text argument a user meets."""

GIVEN: Final = frozenset(
    {"error", "reason", "remedy", "advice", "undecided", "doubt_error", "nothing"}
)
"""The keyword arguments whose text a user meets."""


@dataclass(frozen=True, slots=True)
class Message:
    """A text, with `{…}` where the code fills something in, and the file that says it."""

    text: str
    path: str


def messages() -> Iterator[Message]:
    """Yield each message, by file and line."""
    for folder in ("config", "worker"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            if "sandbox" not in path.parts:
                yield from _messages_in(path)
    for text in SENTENCES.values():
        yield Message(text, "worker/store/sentences.py")


def _messages_in(path: Path) -> Iterator[Message]:
    name = str(path.relative_to(PROJECT))
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: call.lineno):
        arguments = [keyword.value for keyword in call.keywords if keyword.arg in GIVEN]
        if _name_of(call.func) in RAISED:
            arguments += call.args
        for text in map(_text_of, arguments):
            if " " in text.strip():
                yield Message(" ".join(text.split()), name)


def _name_of(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _text_of(node: ast.expr) -> str:
    """Return the text of a literal or an f-string, '' for anything else."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text_of(part) or "{…}" for part in parts)
        case ast.BinOp(left=left, right=right):
            return _text_of(left) + (_text_of(right) or "{…}")
        case ast.Tuple(elts=[ast.Tuple(elts=[member, reason])]):
            return f"{_text_of(member) or '{…}'}: {_text_of(reason) or '{…}'}"
    return ""
