"""Makes foreign text safe to print: masks secrets, and shows control characters."""

import re
from typing import Final

_URL_PASSWORD: Final = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]+(?=@)")
_QUERY_PASSWORD: Final = re.compile(r"(?<=password=)[^&\s]+")
_ACCESS_KEY: Final = re.compile(r"\b(A[KS]IA)[A-Z0-9]{12,}\b")
# All control characters except tab and line feed. Also directional marks, which can make text look
# different from what it is, and lone surrogates.
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MASK: Final = "***"


def mask_text(text: str) -> str:
    """Return `text` with passwords in URLs and AWS access key ids masked."""
    without = _QUERY_PASSWORD.sub(MASK, _URL_PASSWORD.sub(rf"\1:{MASK}", text))
    return _ACCESS_KEY.sub(rf"\1{MASK}", without)


def shown(text: str) -> str:
    r"""Return `text` with its control characters as escapes, such as `\x1b`.

    Text from producers, files and servers could otherwise control the terminal.
    """
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def shown_on_one_line(text: str) -> str:
    """Return `text` with its control characters as escapes, line feeds and tabs among them."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")
