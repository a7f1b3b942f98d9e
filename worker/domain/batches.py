"""A batch message: up to a thousand requests, and the settings of the batch as a whole."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from worker.domain.outcomes import StopRule
from worker.domain.requests import Identifier, InvalidRequestError, problems_of
from worker.domain.schedules import Schedule, Window, local_time

MAX_BATCH_REQUESTS: Final = 1000
"""The most requests that one message may carry."""

Count = Annotated[int, Field(strict=True, ge=0)]


def _is_time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a time in ISO 8601") from None
    return text


def _is_moment(text: str) -> str:
    local_time(text)
    return text


def _is_window(text: str) -> str:
    return Window.parse(text).text


class BatchMessage(BaseModel):
    """What the task `imports.import_batch` takes. The requests are validated later, one by one.

    The first request has the position `offset` in the whole batch. `total` is the number of
    requests in the whole batch, if the producer knows it. `canary` and `stop_percent` are the
    batch's stop rule, `start_at`, `window` and `max_per_hour` its schedule. `recover_since` (ISO
    8601, UTC by default) says that the store was lost: workers first look for jobs that the batch's
    imports have started since then.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    batch_id: Identifier
    """The batch. A batch may have any number of messages."""
    requests: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH_REQUESTS)]
    """Up to 1,000 requests. Each may carry an `importId`; others get one that follows from batch
    and position."""
    offset: Count | None = None
    """The position of the first request in the whole batch. Default: 0. Required from the second
    message of a batch on."""
    total: Count | None = None
    """How many requests the whole batch has. It completes only when all of them have arrived and
    ended."""
    canary: Count | None = None
    """How many imports run first, alone. The others follow when all of them have succeeded;
    otherwise the batch pauses. The first message that arrives decides for the batch."""
    stop_percent: Annotated[float, Field(strict=True, ge=0, le=100)] | None = None
    """Pause the batch when more than this percentage of its ended imports did not succeed. While
    fewer than 20 have ended, they count as 20. With `canary`, the percentage first applies to the
    canaries. The first message that arrives decides for the batch."""
    start_at: Annotated[str, AfterValidator(_is_moment)] | None = None
    """Start no import of the batch before this time (ISO 8601 with an offset, or with a time zone
    behind it: `2026-12-01 22:00 Europe/Berlin`). The first message that arrives decides for the
    batch."""
    window: Annotated[str, AfterValidator(_is_window)] | None = None
    """Start imports only in this window: times, by the clocks of a time zone, such as
    `22:00-06:00 Europe/Berlin` or `Mon-Fri 22:00-06:00, Sat 00:00-24:00 UTC`. The first message
    that arrives decides for the batch."""
    max_per_hour: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Start at most this many imports of the batch in an hour, on all workers together. The first
    message that arrives decides for the batch."""
    recover_since: Annotated[str, AfterValidator(_is_time)] | None = None
    """Only after the store was lost: when the batch was first submitted (ISO 8601, UTC by default).
    Workers list each target's jobs first, and follow a job that was started since then instead of
    starting the import."""

    @classmethod
    def parse(cls, members: Mapping[str, Any]) -> Self:
        """Validate a message's members.

        Raises:
            InvalidRequestError: with every member that is wrong.

        """
        try:
            return cls.model_validate(members)
        except ValidationError as error:
            raise InvalidRequestError(problems_of(error, "a batch")) from error

    @property
    def first(self) -> int:
        """The position of the first request in the whole batch."""
        return self.offset or 0

    @property
    def expected(self) -> int:
        """How many requests the batch has, as far as this message knows."""
        return max(self.first + len(self.requests), self.total or 0)

    @property
    def rule(self) -> StopRule:
        """The batch's stop rule."""
        if self.stop_percent is None:
            return StopRule(self.canary or 0)
        return StopRule(self.canary or 0, self.stop_percent)

    @property
    def schedule(self) -> Schedule:
        """When the batch may start imports."""
        moment = self.start_at and local_time(self.start_at)
        return Schedule(
            start_at_ms=round(moment.timestamp() * 1000) if moment else None,
            window=self.window,
            max_per_hour=self.max_per_hour,
        )

    @property
    def recover_since_ms(self) -> int:
        """The start of the lost period in milliseconds since the epoch; 0 if no store was lost."""
        if self.recover_since is None:
            return 0
        moment = datetime.fromisoformat(self.recover_since)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(1, round(aware.timestamp() * 1000))
