"""Every setting of ours, from environment variables with the prefix `IMPORTS_`.

AWS's own settings (AWS_PROFILE, AWS_REGION, AWS_CONFIG_FILE, AWS_ENDPOINT_URL_AMPLIFYBACKEND …) are
not repeated: botocore reads them.
"""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Rate = Annotated[float, Field(ge=0.001, le=10_000)]
Burst = Annotated[float, Field(ge=1, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=365 * 86400)]

LANE_NAME: Final = re.compile(r"[^/]+/[a-z0-9-]+")

DEFAULT_START_RATE = 5.0
DEFAULT_START_BURST = 5.0
DEFAULT_POLL_RATE = 10.0
DEFAULT_POLL_BURST = 10.0


class SettingsError(ValueError):
    """A setting that can't be used. The message names the variable, or the file and its member."""


class LaneSettings(BaseModel):
    """The known limits of one lane, in calls per second, as the lanes file gives them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_rate: Rate | None = None
    start_burst: Burst | None = None
    poll_rate: Rate | None = None
    poll_burst: Burst | None = None
    max_running: Annotated[int, Field(ge=1)] | None = None


class Settings(BaseSettings):
    """The settings of a worker, a producer and the command line alike."""

    model_config = SettingsConfigDict(env_prefix="IMPORTS_", frozen=True, env_ignore_empty=True)

    redis_url: str = "redis://127.0.0.1:6379/0"
    broker_url: str = ""
    result_backend: str = ""

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
    success_statuses: Annotated[frozenset[str], NoDecode] = frozenset({"COMPLETED"})
    failure_statuses: Annotated[frozenset[str], NoDecode] = frozenset({"FAILED"})

    retention_seconds: Annotated[float, Field(ge=60, le=365 * 86400)] = 7 * 86400.0
    events_max_length: Annotated[int, Field(ge=100)] = 100_000
    max_in_flight: Annotated[int, Field(ge=1, le=1000)] = 100
    worker_pool: Literal["threads", "prefork", "solo"] = "threads"
    worker_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

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
    def celery_result_backend(self) -> str:
        """The result backend: the store unless another is set."""
        return self.result_backend or self.redis_url

    @property
    def call_timeout_seconds(self) -> float:
        """How long one call to AWS may take: a claim must outlive its call."""
        return min(30.0, self.lease_seconds / 2)

    @property
    def lanes(self) -> dict[str, LaneSettings]:
        """The lanes file, lane (`account/region`) → limits.

        Raises:
            SettingsError: naming the file and what is wrong in it.

        """
        return _lanes_of(self.lanes_file) if self.lanes_file else {}


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
    return settings


@cache
def _lanes_of(path: Path) -> dict[str, LaneSettings]:
    """Read `[lanes."account/region"]` tables."""
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"IMPORTS_LANES_FILE {path}: {error}") from error
    lanes = document.pop("lanes", {})
    if document or not isinstance(lanes, dict):
        raise SettingsError(f'{path}: only [lanes."account/region"] tables may stand here')
    return {name: _lane_of(path, name, limits) for name, limits in lanes.items()}


def _lane_of(path: Path, name: str, limits: object) -> LaneSettings:
    if not LANE_NAME.fullmatch(name):
        raise SettingsError(f'{path}: "{name}" is no lane; one is named "account/region"')
    try:
        return LaneSettings.model_validate(limits)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join((*map(str, detail["loc"]), detail["msg"])) for detail in error.errors()
        )
        raise SettingsError(f'{path}: lane "{name}": {problems}') from None


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"IMPORTS_{str(detail['loc'][0]).upper()}: {detail['msg']}"
        if detail["loc"]
        else detail["msg"].removeprefix("Value error, ")
        for detail in error.errors(include_url=False)
    )
