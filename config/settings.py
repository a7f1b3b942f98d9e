"""Every setting of ours, from environment variables with the prefix `IMPORTS_`.

AWS's own settings (AWS_PROFILE, AWS_REGION, AWS_CONFIG_FILE, AWS_ENDPOINT_URL_AMPLIFYBACKEND …) are
not repeated: botocore reads them. A region becomes part of a lane's name, and so is looked at here.
"""

import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config.servers import is_redis, server_of

Rate = Annotated[float, Field(ge=0.001, le=10_000)]
Burst = Annotated[float, Field(ge=1, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=365 * 86400)]

LANE_NAME: Final = re.compile(r"[^/]+/[a-z0-9-]+")
REGION: Final = re.compile(r"[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}")
"""As in a request."""


class SettingsError(ValueError):
    """A setting that can't be used. The message names the variable, or the file and its member."""


class LaneSettings(BaseModel):
    """The known limits of one lane, in calls per second, as the lanes file gives them.

    What is absent is that of all lanes, and where that is absent too, it is learned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_rate: Rate | None = None
    start_burst: Burst | None = None
    poll_rate: Rate | None = None
    poll_burst: Burst | None = None
    shared: bool | None = None
    shared_rate: Rate | None = None
    shared_burst: Burst | None = None
    start_share: Annotated[float, Field(ge=0.05, le=0.95)] | None = None
    max_running: Annotated[int, Field(ge=1)] | None = None


class LanesFile(BaseModel):
    """The lanes file: limits of single lanes, and of all others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: LaneSettings = LaneSettings()
    lanes: dict[str, LaneSettings] = {}

    @field_validator("lanes")
    @classmethod
    def _names_are_lanes(cls, lanes: dict[str, LaneSettings]) -> dict[str, LaneSettings]:
        for name in lanes:
            if not LANE_NAME.fullmatch(name):
                raise ValueError(f'"{name}" is no lane; one is named "account/region"')
        return lanes

    @model_validator(mode="after")
    def _shared_limits_are_of_a_shared_budget(self) -> Self:
        for name, limits in {"defaults": self.defaults, **self.lanes}.items():
            is_shared = self.defaults.shared if limits.shared is None else limits.shared
            if not is_shared and (limits.shared_rate or limits.shared_burst or limits.start_share):
                raise ValueError(
                    f'"{name}": shared_rate, shared_burst and start_share need shared = true'
                )
        return self


class Settings(BaseSettings):
    """The settings of a worker, a producer and the command line alike."""

    model_config = SettingsConfigDict(env_prefix="IMPORTS_", frozen=True, env_ignore_empty=True)

    redis_url: str = "redis://127.0.0.1:6379/0"
    broker_url: str = ""
    result_backend: str = ""
    queue_type: Literal["", "classic", "quorum"] = ""

    start_rate: Rate | None = None
    start_burst: Burst | None = None
    poll_rate: Rate | None = None
    poll_burst: Burst | None = None
    lanes_file: Path | None = None

    poll_min_seconds: Seconds = 3.0
    poll_max_seconds: Seconds = 60.0
    lease_seconds: Annotated[float, Field(ge=2, le=3600)] = 60.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    stuck_seconds: Seconds = 1800.0
    deadline_seconds: Seconds = 6 * 3600.0
    settle_seconds: Seconds = 10.0
    missing_grace_seconds: Seconds = 60.0
    list_memory_seconds: Seconds = 3600.0
    assume_finished_listed: bool = True
    success_statuses: Annotated[frozenset[str], NoDecode] = frozenset({"COMPLETED"})
    failure_statuses: Annotated[frozenset[str], NoDecode] = frozenset({"FAILED"})

    retention_seconds: Annotated[float, Field(ge=60, le=365 * 86400)] = 7 * 86400.0
    events_max_length: Annotated[int, Field(ge=100)] = 100_000
    max_in_flight: Annotated[int, Field(ge=1, le=1000)] = 100
    worker_pool: Literal["threads", "prefork", "solo"] = "threads"
    worker_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _without_stray_blanks(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Strip what an environment file or a secret's last line brings along."""
        stripped = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in values.items()
        }
        return {name: value for name, value in stripped.items() if value != ""}

    @field_validator("redis_url", "broker_url", "result_backend")
    @classmethod
    def _server_is_named(cls, url: str, field: ValidationInfo) -> str:
        if is_redis(url):
            server_of(url)
        elif field.field_name == "redis_url":
            raise ValueError("must begin with redis://, rediss://, sentinel:// or unix://")
        return url

    @field_validator("success_statuses", "failure_statuses", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return frozenset(part.strip().upper() for part in value.split(",") if part.strip())

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.poll_min_seconds > self.poll_max_seconds:
            raise ValueError("IMPORTS_POLL_MIN_SECONDS is greater than IMPORTS_POLL_MAX_SECONDS")
        if both := self.success_statuses & self.failure_statuses:
            raise ValueError(
                "IMPORTS_SUCCESS_STATUSES and IMPORTS_FAILURE_STATUSES both hold "
                + ", ".join(sorted(both))
            )
        if not self.success_statuses or not self.failure_statuses:
            raise ValueError("IMPORTS_SUCCESS_STATUSES and IMPORTS_FAILURE_STATUSES need a status")
        return self

    @property
    def celery_broker_url(self) -> str:
        """The broker: the store unless another is set."""
        return self.broker_url or self.redis_url

    @property
    def broker_is_redis(self) -> bool:
        """Whether the broker is a Redis, in whose lists messages wait."""
        return is_redis(self.celery_broker_url)

    @property
    def celery_result_backend(self) -> str:
        """The result backend: the store unless another is set."""
        return self.result_backend or self.redis_url

    @property
    def call_timeout_seconds(self) -> float:
        """How long one call to AWS may take: a claim must outlive its call."""
        return min(30.0, self.lease_seconds / 2)

    @property
    def acknowledged_seconds(self) -> float:
        """How long AWS may take to acknowledge what was sent: its fate must be sealed when asked.

        A doubt is settled by a question, `settle_seconds` after the call was given up.
        """
        return min(5.0, self.settle_seconds / 2)

    @property
    def lanes(self) -> dict[str, LaneSettings]:
        """The lanes file, lane (`account/region`) → limits.

        Raises:
            SettingsError: naming the file and what is wrong in it.

        """
        return _read_lanes(self.lanes_file).lanes

    @property
    def lane_defaults(self) -> LaneSettings:
        """The limits of lanes that have none of their own: the file's, else the variables'.

        Raises:
            SettingsError: naming the file and what is wrong in it.

        """
        variables = {
            "start_rate": self.start_rate,
            "start_burst": self.start_burst,
            "poll_rate": self.poll_rate,
            "poll_burst": self.poll_burst,
        }
        given = _read_lanes(self.lanes_file).defaults.model_dump(exclude_none=True)
        return LaneSettings.model_validate({**variables, **given})


def load_settings() -> Settings:
    """Read the settings from the environment, and the lanes file that they name.

    Raises:
        SettingsError: naming each variable that is wrong, or the file and its lane.

    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    _ = settings.lanes  # read now: a worker with a bad lanes file must not start
    _check_region()
    return settings


def _check_region() -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        region = os.environ.get(name, "").strip()
        if region and not REGION.fullmatch(region):
            raise SettingsError(f'{name}: must look like eu-central-1, got "{region}"')


@cache
def _read_lanes(path: Path | None) -> LanesFile:
    """Read `[defaults]` and `[lanes."account/region"]` tables."""
    if path is None:
        return LanesFile()
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"IMPORTS_LANES_FILE {path}: {error}") from error
    try:
        return LanesFile.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join((*map(_quoted, detail["loc"]), detail["msg"].removeprefix("Value error, ")))
            for detail in error.errors(include_url=False)
        )
        raise SettingsError(f"IMPORTS_LANES_FILE {path}: {problems}") from None


def _quoted(part: int | str) -> str:
    return f'"{part}"' if "/" in str(part) else str(part)


def _explain(error: ValidationError) -> str:
    return "; ".join(
        ": ".join(
            (
                *(f"IMPORTS_{str(name).upper()}" for name in detail["loc"][:1]),
                detail["msg"].removeprefix("Value error, "),
            )
        )
        for detail in error.errors(include_url=False)
    )
