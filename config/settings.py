"""All settings of this software, from environment variables with the prefix `IMPORTS_`.

botocore reads AWS's own settings (AWS_PROFILE, AWS_REGION, AWS_CONFIG_FILE,
AWS_ENDPOINT_URL_AMPLIFYBACKEND and others); they are not repeated here. Only the format of a region
is checked here, because the region becomes part of a lane's name.
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
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config.servers import is_cluster, is_redis, server_of

Rate = Annotated[float, Field(ge=0.001, le=10_000)]
Burst = Annotated[float, Field(ge=1, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=365 * 86400)]

LANE_NAME: Final = re.compile(r"[^/]+/[a-z0-9-]+")
REGION: Final = re.compile(r"[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}")
"""The format of a region, which requests must have too."""


SOURCE: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]{1,256}")
"""The characters of a URI reference."""


QUEUE_URL: Final = re.compile(r"https?://[^/@?#\s]+(/[^/@?#\s]+)+")
"""The URL of a queue, without credentials."""

BEARER_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""The syntax of a bearer token (RFC 6750, section 2.1)."""


class SettingsError(ValueError):
    """An invalid setting. The message names the variable, or the file and its member."""


class LaneSettings(BaseModel):
    """The configured limits of one lane, from the lanes file.

    If a limit is absent, that of all lanes applies. If that is absent too, workers learn it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    start_rate: Rate | None = None
    """Starts per second."""
    start_burst: Burst | None = None
    """How many starts may be made at once."""
    poll_rate: Rate | None = None
    """Polls and job lists per second."""
    poll_burst: Burst | None = None
    """How many polls and job lists may be made at once."""
    shared: bool | None = None
    """Whether AWS counts starts, polls and job lists together. Then the shared limit applies."""
    shared_rate: Rate | None = None
    """Calls of all kinds per second."""
    shared_burst: Burst | None = None
    """How many calls of all kinds may be made at once."""
    start_share: Annotated[float, Field(ge=0.05, le=0.95)] | None = None
    """The part of the shared limit that starts get while both starts and polls are due."""
    max_running: Annotated[int, Field(ge=1)] | None = None
    """How many jobs may be unfinished at once."""


class LanesFile(BaseModel):
    """The lanes file: the limits of single lanes, and the default limits of all other lanes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: LaneSettings = LaneSettings()
    lanes: dict[str, LaneSettings] = {}

    @field_validator("lanes")
    @classmethod
    def _names_are_lanes(cls, lanes: dict[str, LaneSettings]) -> dict[str, LaneSettings]:
        for name in lanes:
            if not LANE_NAME.fullmatch(name):
                raise ValueError(f'"{name}" is not a lane name; it must look like "account/region"')
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
    """The settings of workers, producers and the command line."""

    model_config = SettingsConfigDict(
        env_prefix="IMPORTS_", frozen=True, env_ignore_empty=True, use_attribute_docstrings=True
    )

    redis_url: str = "redis://127.0.0.1:6379/0"
    """The store: Redis or Valkey, by TCP, TLS or a Unix socket, with Sentinels, or as a cluster."""
    broker_url: str = ""
    """Celery's broker, Redis or RabbitMQ, but no cluster. Default: the store."""
    result_backend: str = ""
    """Celery's result backend, which is no cluster. Default: the store."""
    queue_type: Literal["", "classic", "quorum"] = ""
    """The type of the workers' queues on RabbitMQ. Default: that of the virtual host."""

    start_rate: Rate | None = None
    """Starts per second in each lane. Unset: learned from AWS's answers."""
    start_burst: Burst | None = None
    """How many starts a lane may make at once. Unset: learned."""
    poll_rate: Rate | None = None
    """Polls and job lists per second in each lane. Unset: learned."""
    poll_burst: Burst | None = None
    """How many polls and job lists a lane may make at once. Unset: learned."""
    lanes_file: Path | None = None
    """A TOML file with the limits of single lanes."""

    accounts: Annotated[frozenset[str], NoDecode] = frozenset()
    """The accounts that requests may name, separated by commas: names, or patterns such as
    `customer-*`. The workers also need AWS profiles of these names. List `default` to allow the
    workers' own credentials. Unset: all profiles in the workers' AWS configuration, and
    `default`."""

    poll_min_seconds: Seconds = 3.0
    """The shortest time between two polls of a job. Polls follow how long the jobs of the lane and
    operation have taken. Until ten of them have ended, the first poll comes after this time, and
    each later interval is 1.5 times the one before. All intervals vary at random by 15 %. (The
    first jobs of a new lane are polled sooner.)"""
    poll_max_seconds: Seconds = 60.0
    """The longest time between two polls of a job."""
    lease_seconds: Annotated[float, Field(ge=2, le=3600)] = 60.0
    """How long a worker's right to make a call is valid. If the worker has not recorded the answer
    by then, another worker takes over. A call may take half of this time, and 30 seconds at
    most."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """How many starts an import may make. A start does not count if AWS throttled it or refused it
    because of another job, or if the lane was paused because no call was answered."""
    stuck_seconds: Seconds = 1800.0
    """Time from the first start until `import.stuck` is emitted, unless the import has ended."""
    deadline_seconds: Seconds = 6 * 3600.0
    """Time from the first start until an import ends as `timed_out`."""
    settle_seconds: Seconds = 10.0
    """How long AWS's job list is assumed to lag behind its jobs, at most. AWS does not document it.
    Workers wait so long before they list jobs to learn whether a start took effect."""
    missing_grace_seconds: Seconds = 60.0
    """How long AWS may answer 404 for a job that it has just started. After a later 404, a worker
    lists the target's jobs."""
    list_memory_seconds: Seconds = 3600.0
    """How long AWS's job list is assumed to show a job, at least. AWS does not document it. A start
    whose outcome has been unknown for longer waits for an operator to decide."""
    assume_finished_listed: bool = True
    """Whether to assume that AWS's job list shows finished jobs, unless the lane has seen
    otherwise. With `false`, only lanes that have seen it rely on it; elsewhere a start whose
    outcome no list shows waits for an operator to decide."""
    preflight: Literal["off", "warn", "reject", "require"] = "off"
    """Whether workers ask Cognito, before an import's start, whether its pools and clients can be
    imported. `warn` logs what is wrong, and `reject` rejects the import. With both, imports that
    can't be checked start all the same; with `require`, they wait."""
    verify: bool = False
    """Whether workers ask AWS, after an import has succeeded, what its app environment has now. If
    that differs from what was imported, they emit `import.unverified`."""
    success_statuses: Annotated[frozenset[str], NoDecode] = frozenset({"COMPLETED"})
    """Job statuses that mean success, separated by commas, in upper or lower case. AWS does not
    document its statuses."""
    failure_statuses: Annotated[frozenset[str], NoDecode] = frozenset({"FAILED"})
    """Job statuses that mean failure, separated by commas, in upper or lower case."""

    retention_seconds: Annotated[float, Field(ge=60, le=365 * 86400)] = 7 * 86400.0
    """How long an import's record, its result and its idempotencyKey are kept after its end. Then
    the same request is a new import."""
    events_max_length: Annotated[int, Field(ge=100)] = 100_000
    """How many entries the event stream keeps, approximately."""
    event_source: str = "amplify-import-worker"
    """The CloudEvents `source` of every event: a URI that names this deployment. All workers of a
    store need the same. A source and an `id` together name one event."""
    sqs_requests_url: str = ""
    """The URL of a queue of Amazon SQS from which workers take requests. They need the ambient
    credentials, and the policy in `config/aws/iam-policy-sqs.json`."""
    sinks_file: Path | None = None
    """A TOML file with the sinks to which `amplify-import relay` sends events. Each of the next
    settings configures one sink without a file."""
    webhook_url: str = ""
    """Where `amplify-import relay` sends events by webhook, as the sink `webhook`."""
    webhook_secret: SecretStr | None = None
    """The secret `whsec_…` that signs them."""
    webhook_allow_private: bool = False
    """Whether that webhook's address may be private, loopback or link-local."""
    eventbridge_bus: str = ""
    """The event bus of Amazon EventBridge to which `amplify-import relay` sends events, as the sink
    `eventbridge`: its name or ARN."""
    sns_topic_arn: str = ""
    """The topic of Amazon SNS to which `amplify-import relay` sends events, as the sink `sns`."""
    sqs_events_url: str = ""
    """The queue of Amazon SQS to which `amplify-import relay` sends events, as the sink `sqs`."""
    http_token: SecretStr | None = None
    """The bearer token that requests to `amplify-import serve` carry, or several, separated by
    commas, so that a token can be replaced. Required by `serve`."""
    http_rate: Rate = 100.0
    """How many HTTP requests a second each token may make, on average. It may make twice as many at
    once."""
    max_in_flight: Annotated[int, Field(ge=1, le=1000)] = 100
    """How many calls to AWS a worker makes at once."""
    worker_pool: Literal["threads", "prefork", "solo"] = "threads"
    """Celery's worker pool."""
    worker_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """The size of that pool. It limits how many messages are admitted at once, not calls to AWS."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """The format of log lines. `auto` writes for people on a terminal, and JSON elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The lowest level that is logged."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """The port on which a worker serves its metrics and its health by HTTP; 0 for none. Workers on
    one machine need different ports."""
    metrics_host: str = "127.0.0.1"
    """The address on which a worker serves them. `0.0.0.0` serves them to other machines, without
    a password."""
    metrics_store: bool = False
    """Whether a worker's metrics include those of the whole store. One worker is enough, or
    `amplify-import metrics --port`."""

    @model_validator(mode="before")
    @classmethod
    def _without_stray_blanks(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Strip blanks, which environment files and files with secrets often contain."""
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
            raise ValueError(
                "must begin with redis://, rediss://, sentinel://, unix://, redis+cluster:// or"
                " rediss+cluster://"
            )
        if is_cluster(url) and field.field_name != "redis_url":
            raise ValueError("must not be a cluster, which Celery can't use")
        return url

    @field_validator("sqs_requests_url")
    @classmethod
    def _is_a_queue(cls, url: str) -> str:
        if url and not QUEUE_URL.fullmatch(url):
            raise ValueError("must look like https://sqs.eu-central-1.amazonaws.com/123456789012/q")
        return url

    @field_validator("event_source")
    @classmethod
    def _is_a_uri(cls, source: str) -> str:
        if not SOURCE.fullmatch(source):
            raise ValueError("must be a URI, or a part of one, of 256 characters at most")
        if source.startswith("aws."):
            raise ValueError('must not begin with "aws.": EventBridge keeps it for AWS')
        return source

    @field_validator("http_token")
    @classmethod
    def _is_a_token(cls, token: SecretStr | None) -> SecretStr | None:
        for part in token.get_secret_value().split(",") if token else ():
            if not BEARER_TOKEN.fullmatch(part.strip()):
                raise ValueError(
                    "holds a token with other characters than letters, digits, -._~+/="
                )
        return token

    @field_validator("success_statuses", "failure_statuses", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return frozenset(part.strip().upper() for part in value.split(",") if part.strip())

    @field_validator("accounts", mode="before")
    @classmethod
    def _split_accounts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = frozenset(part.strip() for part in value.split(",") if part.strip())
        if not names:
            raise ValueError("lists no account; unset it to allow all")
        return names

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.poll_min_seconds > self.poll_max_seconds:
            raise ValueError("IMPORTS_POLL_MIN_SECONDS is greater than IMPORTS_POLL_MAX_SECONDS")
        if both := self.success_statuses & self.failure_statuses:
            raise ValueError(
                "IMPORTS_SUCCESS_STATUSES and IMPORTS_FAILURE_STATUSES both hold "
                + ", ".join(sorted(both))
            )
        if is_cluster(self.redis_url) and not (self.broker_url and self.result_backend):
            raise ValueError(
                "IMPORTS_REDIS_URL is a cluster, which Celery can't use: IMPORTS_BROKER_URL and"
                " IMPORTS_RESULT_BACKEND must name other servers"
            )
        if not self.success_statuses or not self.failure_statuses:
            raise ValueError("IMPORTS_SUCCESS_STATUSES and IMPORTS_FAILURE_STATUSES need a status")
        return self

    @property
    def http_tokens(self) -> tuple[str, ...]:
        """The bearer tokens; none if the variable is not set."""
        text = self.http_token.get_secret_value() if self.http_token else ""
        return tuple(part.strip() for part in text.split(",") if part.strip())

    @property
    def celery_broker_url(self) -> str:
        """The URL of the broker. The default is the store."""
        return self.broker_url or self.redis_url

    @property
    def broker_is_redis(self) -> bool:
        """Whether the broker is Redis or Valkey, so that messages wait in its lists."""
        return is_redis(self.celery_broker_url)

    @property
    def celery_result_backend(self) -> str:
        """The URL of the result backend. The default is the store."""
        return self.result_backend or self.redis_url

    @property
    def call_timeout_seconds(self) -> float:
        """How long one call to AWS may take: less than a lease, so that the claim does not end."""
        return min(30.0, self.lease_seconds / 2)

    @property
    def preflight_seconds(self) -> float:
        """How long a preflight check may keep a claimed start waiting, so that time is left."""
        return min(5.0, self.lease_seconds / 4)

    @property
    def acknowledged_seconds(self) -> float:
        """How long AWS may take to acknowledge sent data before its connection is closed.

        Workers check with AWS `settle_seconds` after they gave up a call. By then, the data of the
        call must either have arrived or never arrive. So this time is shorter.
        """
        return min(5.0, self.settle_seconds / 2)

    @property
    def lanes(self) -> dict[str, LaneSettings]:
        """The limits in the lanes file, by the name of the lane (`account/region`).

        Raises:
            SettingsError: if the file can't be read or is invalid.

        """
        return _read_lanes(self.lanes_file).lanes

    @property
    def lane_defaults(self) -> LaneSettings:
        """The default limits of lanes: those in the lanes file, else those of the variables.

        Raises:
            SettingsError: if the file can't be read or is invalid.

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
    """Read the settings from the environment, and check the lanes file that they name.

    Raises:
        SettingsError: if a variable or the file is invalid. The message names each variable, or the
            file and the lane.

    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    _ = settings.lanes  # so that a worker with an invalid lanes file does not start
    _check_region()
    return settings


def _check_region() -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        region = os.environ.get(name, "").strip()
        if region and not REGION.fullmatch(region):
            raise SettingsError(f'{name}: must look like eu-central-1, got "{region}"')


@cache
def _read_lanes(path: Path | None) -> LanesFile:
    """Read the tables `[defaults]` and `[lanes."account/region"]` of a TOML file."""
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
