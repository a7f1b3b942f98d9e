"""What a lane has shown of AWS: facts that AWS does not document, observed of our own jobs.

They make decisions faster. No promise rests on them: where a fact is unknown or otherwise, the
decision asks AWS once more, waits, or leaves it to a person (`docs/reliability.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Self

from worker.domain.answers import Job

SLACK_SECONDS: Final = 2.0
"""How far a job's `createTime` may lie outside the time of the call that started it."""

FINEST_SECONDS: Final = 2.0
"""A time that may be off by more than this tells no two jobs apart."""

WORDS: Final = 20
"""How many words of a kind a lane keeps."""


class Times(StrEnum):
    """Whether the lane's jobs tell when they were created."""

    UNKNOWN = "unknown"  # no job of ours has been seen yet
    GOOD = "good"  # they agree with when our own jobs were started
    BAD = "bad"  # missing, unreadable, too coarse, or wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """What one lane has shown so far. Words are as AWS wrote them, statuses in upper case.

    `operations` and `list_operations` are the names that our own jobs bore when they were asked for
    one by one, and in lists. `left` holds the statuses that a job was seen to leave, with the
    longest time, in seconds, that one stayed. `list_lag_seconds` is the greatest age at which a
    list did not show a job of ours yet; None until a list has shown one. `lists_finished` says
    whether a list shows jobs that are over. `suspects` are statuses that look final, and that no
    setting calls so.
    """

    times: Times = Times.UNKNOWN
    time_format: str = ""
    operations: frozenset[str] = frozenset()
    list_operations: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    left: Mapping[str, float] = field(default_factory=dict)
    suspects: frozenset[str] = frozenset()
    list_lag_seconds: float | None = None
    lists_finished: bool | None = None
    longest_job_seconds: float = 0.0

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Build from the flat text fields of the stored hash; see `to_fields`."""
        words = _words_of(fields)
        lag, finished = fields.get("list_lag_ms"), fields.get("lists_finished")
        return cls(
            times=Times(fields.get("times", Times.UNKNOWN)),
            time_format=fields.get("time_format", ""),
            operations=frozenset(words["operation"]),
            list_operations=frozenset(words["list_operation"]),
            statuses=frozenset(words["status"]),
            left={word: float(ms) / 1000 for word, ms in words["left"].items()},
            suspects=frozenset(words["suspect"]),
            list_lag_seconds=None if lag is None else float(lag) / 1000,
            lists_finished=None if finished is None else finished == "1",
            longest_job_seconds=float(fields.get("longest_job_ms", 0)) / 1000,
        )

    def to_fields(self) -> dict[str, str | int]:
        """Return the facts as flat fields of a hash; times are whole milliseconds."""
        fields: dict[str, str | int] = {
            f"{kind}:{word}": 1
            for kind, words in (
                ("operation", self.operations),
                ("list_operation", self.list_operations),
                ("status", self.statuses),
                ("suspect", self.suspects),
            )
            for word in words
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

    def settle_seconds(self, setting: float) -> float:
        """Return how long a list may lag behind a call: what is set, or twice what was seen."""
        return max(setting, 2 * (self.list_lag_seconds or 0.0))

    def with_times_of(self, job: Job, *, at_least: float, at_most: float) -> Self:
        """Learn whether a job of ours, which is at least and at most so old, tells its age."""
        if self.times is Times.BAD:
            return self
        times = Times.GOOD if _tells_its_age(job, at_least, at_most) else Times.BAD
        return replace(self, times=times, time_format=job.time_format)

    def with_words_of(self, job: Job, *, listed: bool) -> Self:
        """Learn what AWS calls an operation and a status of ours."""
        named = replace(self, statuses=_with(self.statuses, job.status.upper()))
        if listed:
            return replace(named, list_operations=_with(self.list_operations, job.operation))
        return replace(named, operations=_with(self.operations, job.operation))

    def with_change(self, status: str, seconds: float) -> Self:
        """Learn that a job left a status after so long."""
        word = status.upper()
        if word not in self.left and len(self.left) >= WORDS:
            return self
        return replace(self, left={**self.left, word: max(seconds, self.left.get(word, 0.0))})

    def with_list_lag(self, seconds: float) -> Self:
        """Learn that a list did not show a job of that age, or, with 0, that one was shown."""
        return replace(self, list_lag_seconds=max(seconds, self.list_lag_seconds or 0.0))


def _words_of(fields: Mapping[str, str]) -> dict[str, dict[str, str]]:
    words: dict[str, dict[str, str]] = {
        kind: {} for kind in ("operation", "list_operation", "status", "left", "suspect")
    }
    for name, value in fields.items():
        kind, colon, word = name.partition(":")
        if colon and kind in words:
            words[kind][word] = value
    return words


def _with(words: frozenset[str], word: str) -> frozenset[str]:
    return words | {word} if word and len(words) < WORDS else words


def _tells_its_age(job: Job, at_least: float, at_most: float) -> bool:
    ago, within = job.created_seconds_ago, job.created_within_seconds + SLACK_SECONDS
    if ago is None or job.created_within_seconds > FINEST_SECONDS:
        return False
    return at_least - within <= ago <= at_most + within
