"""Why requests were not admitted, for callers that wait for the verdict."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one member of one request.

    `position` is that of the request in its list, from 0; None if there is only one request.
    """

    member: str
    message: str
    position: int | None = None

    def __str__(self) -> str:
        where = "" if self.position is None else f"request {self.position}: "
        return f"{where}{self.member}: {self.message}"


class SubmissionError(ValueError):
    """Requests that were not admitted. Unless a subclass says otherwise, nothing was stored.

    `problems` has one entry for each wrong member of each request; the message joins them.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


class InvalidSubmissionError(SubmissionError):
    """A request is invalid, or its account may not be used."""


class ConflictError(SubmissionError):
    """An importId or an idempotencyKey belongs to another request.

    If that other request came in at the same moment, the requests of the list that `problems` does
    not name may have been admitted, and one that it names may have left a rejected import.
    """
