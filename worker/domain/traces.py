"""An import's place in a distributed trace, as W3C Trace Context writes it.

It is data that travels with an import, whether or not this process writes spans itself. What can't
be read is ignored: a trace is never a reason to refuse a request.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

LONGEST_STATE: Final = 512
"""The length up to which W3C Trace Context asks everybody to pass a `tracestate` on."""

_PARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<span_id>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MOST_MEMBERS: Final = 32
_KNOWN_FLAGS: Final = 0x03
"""`sampled` and `random`; the others mean nothing yet, and must not be passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A span within a trace: ids in hexadecimal, flags, and the vendors' own `state`.

    `parent_id` is the span above the import's own span; '' if there is none, or if `span_id` is not
    the import's own.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""
    parent_id: str = ""

    @property
    def is_sampled(self) -> bool:
        """Whether the spans of this trace are kept."""
        return bool(self.flags & 0x01)

    @property
    def traceparent(self) -> str:
        """The context as the header `traceparent` holds it."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def for_logs(self) -> dict[str, str]:
        """Return the fields of log lines about the import."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}


def read_trace(
    traceparent: object, tracestate: object = None, parent_id: str = ""
) -> TraceContext | None:
    """Read the two headers; None if `traceparent` is missing or invalid.

    An invalid `tracestate` counts as missing.
    """
    found = _PARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    if not (found["trace_id"].strip("0") and found["span_id"].strip("0")):
        return None
    return TraceContext(
        trace_id=found["trace_id"],
        span_id=found["span_id"],
        flags=int(found["flags"], 16) & _KNOWN_FLAGS,
        state=_readable(tracestate),
        parent_id=parent_id,
    )


def own_span_id(import_id: str) -> str:
    """Return the id of an import's span. Every worker knows it, whichever has admitted it."""
    return sha256(f"import:{import_id}".encode()).hexdigest()[:16]


def _readable(state: object) -> str:
    """Return a valid `tracestate` unchanged, '' for any other value."""
    if not isinstance(state, str) or not 0 < len(state) <= LONGEST_STATE:
        return ""
    members = [member.strip(" \t") for member in state.split(",")]
    named = [member for member in members if member]  # members may be empty
    valid = len(named) <= _MOST_MEMBERS and all(map(_MEMBER.fullmatch, named))
    return state if valid and named else ""
