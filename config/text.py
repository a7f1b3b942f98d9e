"""Makes foreign text safe to print: masks secrets, and shows control characters."""

import re
from typing import Final

_URL_PASSWORD: Final = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]+(?=@)")
_NAMES: Final = (
    r"(?:secret[_-]?access[_-]?key|(?:session|security)[_-]?token|client[_-]?secret|signature"
    r"|passw(?:or)?d)"
)
# As in a query or a configuration file.
_SET: Final = re.compile(
    rf"""({_NAMES}\s*=\s*)(?:"[^"]*(?:"|$)|'[^']*(?:'|$)|[^\s"'&][^\s&]*)""", re.IGNORECASE
)
# As in JSON, JSON within JSON, or the text of a dict.
_MEMBER: Final = re.compile(
    rf"""({_NAMES}\\*["']\s*:\s*b?(\\*["'])).*?(?:(?=\2)|$)""", re.IGNORECASE
)
_HEADER: Final = re.compile(
    r"""(\b(?:authorization(?: header)?|x-amz-security-token)["']?\s*[:=]\s*b?["']?)[^"'\r\n]+""",
    re.IGNORECASE,
)
# Every session token of AWS begins like this.
_SESSION_TOKEN: Final = re.compile(r"\b(IQoJ|FwoG|FQoG)[\w/+=%-]{20,}")
_ACCESS_KEY: Final = re.compile(r"\b(A[KS]IA)[A-Z0-9]{12,}\b")
# All control characters except tab and line feed. Also directional marks, which can make text look
# different from what it is, and lone surrogates.
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MASK: Final = "***"
LONGEST_REASON: Final = 200
_NAME_PARTS: Final = ("token", "secret", "signature", "passw")
_MASKED: Final = (
    (("://",), _URL_PASSWORD, rf"\1:{MASK}"),
    (("authorization", "x-amz-security-token"), _HEADER, rf"\1{MASK}"),
    (_NAME_PARTS, _SET, rf"\1{MASK}"),
    (_NAME_PARTS, _MEMBER, rf"\1{MASK}"),
    (("iqoj", "fwog", "fqog"), _SESSION_TOKEN, rf"\1{MASK}"),
    (("akia", "asia"), _ACCESS_KEY, rf"\1{MASK}"),
)
"""Each kind of secret, and texts of which a text with such a secret contains at least one. Looking
for these first takes an eighth of the time."""


def mask_text(text: str) -> str:
    """Return `text` with secrets masked: passwords in URLs, AWS credentials, signed headers.

    A secret is recognised by the name before it, or by its form.
    """
    lowered = text.lower()
    for hints, secret, masked in _MASKED:
        for hint in hints:
            if hint in lowered:
                text = secret.sub(masked, text)
                break
    return text


def shown(text: str) -> str:
    r"""Return `text` with its control characters as escapes, such as `\x1b`.

    Text from producers, files and servers could otherwise control the terminal.
    """
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def shown_on_one_line(text: str) -> str:
    """Return `text` with its control characters as escapes, line feeds and tabs among them."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def shown_reason(said: BaseException | str) -> str:
    """Return what an error or a server said, as a reason for people.

    It is short, on one line, and without secrets.
    """
    text = said if isinstance(said, str) else str(said) or type(said).__name__
    return shown_on_one_line(mask_text(" ".join(text.split())))[:LONGEST_REASON]
