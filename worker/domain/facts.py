"""What a lane has shown of AWS: facts that AWS does not document, observed in our own jobs.

They make decisions faster. No promise rests on them: if a fact is unknown or unfavorable, the
worker checks with AWS once more, waits, or leaves the decision to an operator
(`docs/reliability.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Self

from worker.domain.answers import Job
from worker.domain.polling import UNKNOWN_DURATIONS, Durations
from worker.domain.requests import DEFAULT_OPERATION

SLACK_SECONDS: Final = 2.0
"""How far a job's `createTime` may lie outside the duration of the call that started it."""

FINEST_SECONDS: Final = 2.0
"""Times that may be off by more than this can't distinguish jobs."""

WORDS: Final = 20
"""How many words of a kind a lane keeps."""

Names = Mapping[str, frozenset[str]]
"""Words by the operation that they name."""


class Times(StrEnum):
    """Whether the times of the lane's jobs show when they were created."""

    UNKNOWN = "unknown"  # no job of ours has been seen yet
    GOOD = "good"  # they agree with when our own jobs were started
    BAD = "bad"  # missing, unreadable, too coarse, or wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """What one lane has shown so far. Words are as AWS wrote them, statuses in upper case.

    `operations` and `list_operations` are the names that our own jobs had in polls and in lists, by
    the operation that we had asked for. `left` contains the statuses that a job was seen to leave,
    with the longest time in seconds that a job stayed in it. `list_lag_seconds` is the greatest age
    at which a list did not show a job of ours yet; None until a list has shown one.
    `lists_finished` says whether lists show jobs that are over. `suspects` are statuses that look
    final but that no setting lists as final. `durations` says how long jobs take, by operation; the
    store keeps it when an import ends.
    """

    times: Times = Times.UNKNOWN
    time_format: str = ""
    operations: Names = field(default_factory=dict)
    list_operations: Names = field(default_factory=dict)
    statuses: frozenset[str] = frozenset()
    left: Mapping[str, float] = field(default_factory=dict)
    suspects: frozenset[str] = frozenset()
    list_lag_seconds: float | None = None
    lists_finished: bool | None = None
    longest_job_seconds: float = 0.0
    durations: Mapping[str, Durations] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Build from the text fields of the stored hash; see `to_fields`."""
        lag, finished = fields.get("list_lag_ms"), fields.get("lists_finished")
        return cls(
            times=Times(fields.get("times", Times.UNKNOWN)),
            time_format=fields.get("time_format", ""),
            operations=_names_in(fields, "operation"),
            list_operations=_names_in(fields, "list_operation"),
            statuses=frozenset(_words_in(fields, "status")),
            left={word: float(ms) / 1000 for word, ms in _words_in(fields, "left").items()},
            suspects=frozenset(_words_in(fields, "suspect")),
            list_lag_seconds=None if lag is None else float(lag) / 1000,
            lists_finished=None if finished is None else finished == "1",
            longest_job_seconds=float(fields.get("longest_job_ms", 0)) / 1000,
            durations=_durations_in(fields),
        )

    def to_fields(self) -> dict[str, str | int]:
        """Return the facts as fields of a hash, without the durations; times are milliseconds."""
        kinds = {
            **{_kind("operation", name): words for name, words in self.operations.items()},
            **{
                _kind("list_operation", name): words for name, words in self.list_operations.items()
            },
            "status": self.statuses,
            "suspect": self.suspects,
        }
        fields: dict[str, str | int] = {
            f"{kind}:{word}": 1 for kind, words in kinds.items() for word in words
        }
        fields |= {f"left:{word}": round(seconds * 1000) for word, seconds in self.left.items()}
        if self.times is not Times.UNKNOWN:
            fields |= {"times": self.times, "time_format": self.time_format}
        if self.list_lag_seconds is not None:
            fields["list_lag_ms"] = round(self.list_lag_seconds * 1000)
        if self.lists_finished is not None:
            fields["lists_finished"] = int(self.lists_finished)
        if self.longest_job_seconds:
            fields["longest_job_ms"] = round(self.longest_job_seconds * 1000)
        return fields

    def durations_of(self, operation: str) -> Durations:
        """Return how long the jobs of an operation take."""
        return self.durations.get(operation, UNKNOWN_DURATIONS)

    def settle_seconds(self, setting: float) -> float:
        """Return how long a list may lag behind a call: `setting` or twice the longest lag."""
        return max(setting, 2 * (self.list_lag_seconds or 0.0))

    def with_times_of(self, job: Job, *, at_least: float, at_most: float) -> Self:
        """Learn whether the time of a job of ours fits its age, which is between the two bounds."""
        if self.times is Times.BAD:
            return self
        times = Times.GOOD if _shows_age(job, at_least, at_most) else Times.BAD
        return replace(self, times=times, time_format=job.time_format)

    def with_words_of(self, job: Job, operation: str, *, listed: bool) -> Self:
        """Learn what AWS calls a job of an operation of ours, and its status."""
        named = replace(self, statuses=_with(self.statuses, job.status.upper()))
        if not job.operation:
            return named
        if listed:
            return replace(named, list_operations=_with_name(self.list_operations, operation, job))
        return replace(named, operations=_with_name(self.operations, operation, job))

    def with_change(self, status: str, seconds: float) -> Self:
        """Learn that a job left a status after so many seconds."""
        word = status.upper()
        if word not in self.left and len(self.left) >= WORDS:
            return self
        return replace(self, left={**self.left, word: max(seconds, self.left.get(word, 0.0))})

    def with_list_lag(self, seconds: float) -> Self:
        """Learn that a list did not show a job of that age, or, with 0, that it showed one."""
        return replace(self, list_lag_seconds=max(seconds, self.list_lag_seconds or 0.0))


def _kind(kind: str, operation: str) -> str:
    """Name the fields with an operation's names; those of the default operation have no suffix."""
    return kind if operation == DEFAULT_OPERATION else f"{kind}@{operation}"


def _names_in(fields: Mapping[str, str], kind: str) -> Names:
    names: dict[str, frozenset[str]] = {}
    for name in fields:
        field_kind, _, word = name.partition(":")
        field_kind, _, operation = field_kind.partition("@")
        if field_kind == kind and word:
            operation = operation or DEFAULT_OPERATION
            names[operation] = names.get(operation, frozenset()) | {word}
    return names


def _durations_in(fields: Mapping[str, str]) -> dict[str, Durations]:
    durations = {}
    for name, text in fields.items():
        kind, _, operation = name.partition("@")
        if kind == "durations":
            durations[operation or DEFAULT_OPERATION] = Durations.from_text(text)
    return durations


def _words_in(fields: Mapping[str, str], kind: str) -> dict[str, str]:
    return {
        name.removeprefix(f"{kind}:"): value
        for name, value in fields.items()
        if name.startswith(f"{kind}:")
    }


def _with_name(names: Names, operation: str, job: Job) -> Names:
    return {**names, operation: _with(names.get(operation, frozenset()), job.operation)}


def _with(words: frozenset[str], word: str) -> frozenset[str]:
    return words | {word} if word and len(words) < WORDS else words


def _shows_age(job: Job, at_least: float, at_most: float) -> bool:
    ago, within = job.created_seconds_ago, job.created_within_seconds + SLACK_SECONDS
    if ago is None or job.created_within_seconds > FINEST_SECONDS:
        return False
    return at_least - within <= ago <= at_most + within
