"""The pages of ListBackendJobs, in any order. Tokens stay valid while jobs are added."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from worker.sandbox.api import bad_request
from worker.sandbox.jobs import Job

DEFAULT_PAGE_SIZE = 25

TOKEN_CHARACTERS = 600
"""The length of a token. Tokens of AWS are at least this long."""

_TOKEN = re.compile(r"_*(?P<after>-?\d{1,15}|start)\.(?P<empty>\d{1,9})")

Rank = Callable[[Job], int]
"""Returns a job's place in the order of a list. No two jobs have the same."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: after the rank `after`, once `empty_pages` empty pages were served."""

    after: float = -inf
    empty_pages: int = 0

    @property
    def token(self) -> str:
        """The position as a token, which is opaque to clients."""
        after = "start" if self.after == -inf else int(self.after)
        return f"{after}.{self.empty_pages}".rjust(TOKEN_CHARACTERS, "_")

    @classmethod
    def from_token(cls, token: str) -> "Position":
        """Return the position that a token stands for.

        Raises:
            ApiError: the answer 400, if this API has not issued the token.

        """
        match = _TOKEN.fullmatch(token)
        if not match:
            raise bad_request("Member nextToken is not a token of this API.")
        after = -inf if match["after"] == "start" else float(match["after"])
        return cls(after, int(match["empty"]))


def page(
    jobs: list[Job], position: Position, size: int, rank: Rank
) -> tuple[list[Job], Position | None]:
    """Return the page of a target's jobs at a position, and the next position; None at the end."""
    if position.empty_pages:
        return [], Position(position.after, position.empty_pages - 1)
    rest = sorted((job for job in jobs if rank(job) > position.after), key=rank)
    chosen = rest[:size]
    following = Position(rank(chosen[-1])) if len(rest) > size else None
    return chosen, following
