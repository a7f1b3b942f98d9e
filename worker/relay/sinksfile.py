"""The sinks file: where the relay sends which events."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from config.settings import Settings, SettingsError
from worker.domain.events import EventType
from worker.relay.addresses import is_address, is_public
from worker.relay.event import Event
from worker.relay.secrets import Reference, SecretError, read_secret
from worker.relay.signature import key_of

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class SinkSettings(BaseModel):
    """What every sink has."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    types: tuple[str, ...] = ("*",)
    """The types of the events to send, such as `["import.failed", "batch.*"]`."""
    batches: tuple[str, ...] | None = None
    """The batches whose events to send, such as `["wave-*"]`. Events that belong to no batch are
    then not sent."""
    start: Literal["oldest", "newest"] = "oldest"
    """Where a new sink begins: at the oldest event that the stream still has, or with those to
    come."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """How many calls may be in progress at once."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 10
    """After how many attempts an event that the sink refuses is parked."""
    timeout_seconds: Annotated[float, Field(gt=0, le=120)] = 15.0
    """How long a call may take."""

    @field_validator("types")
    @classmethod
    def _types_exist(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in types:
            if not any(fnmatchcase(name, pattern) for name in EventType):
                raise ValueError(f'"{pattern}" matches no type of event')
        return types

    def wants(self, event: Event) -> bool:
        """Return whether the event is to be sent."""
        if not any(fnmatchcase(event.type, pattern) for pattern in self.types):
            return False
        return self.batches is None or any(
            fnmatchcase(event.batch_id, pattern) for pattern in self.batches if event.batch_id
        )

    @property
    def place(self) -> str:
        """Where the events go, for people, and without secrets."""
        raise NotImplementedError

    def check_secrets(self) -> None:
        """Raise SecretError if a secret can't be read or is malformed."""


class WebhookSettings(SinkSettings):
    """A webhook that is signed by the Standard Webhooks specification."""

    kind: Literal["webhook"]
    """`webhook`"""
    url: str
    """Where to send each event by POST: `https://…`."""
    secrets: Annotated[tuple[Reference, ...], Field(min_length=1)]
    """Where the secrets `whsec_…` are: `["env:NAME"]` or `["file:/path"]`. Each request is signed
    with all of them, so that a secret can be replaced."""
    allow_http: bool = False
    """Whether `http://` is allowed for other addresses than this machine's."""
    allow_private: bool = False
    """Whether the address may be private, loopback or link-local."""

    @model_validator(mode="after")
    def _may_be_reached(self) -> Self:
        parts = urlsplit(self.url)
        host = parts.hostname
        if parts.scheme not in {"https", "http"} or not host:
            raise ValueError("url: must begin with https:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url: must hold no user and no password")
        if parts.scheme == "http" and not self.allow_http and host not in LOOPBACK:
            raise ValueError("url: must begin with https://, unless allow_http is true")
        is_private = host == "localhost" or (is_address(host) and not is_public(host))
        if is_private and not self.allow_private:
            raise ValueError(f"url: {host} is not public; allow_private = true allows it")
        return self

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys of the secrets. Raises SecretError if one can't be read or is malformed."""
        return tuple(map(_key_at, self.secrets))

    def check_secrets(self) -> None:
        """Raise SecretError if a secret can't be read or is malformed."""
        _ = self.keys

    @property
    def place(self) -> str:
        """The URL up to its host: path and query of a webhook may hold a token."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


class AwsSettings(SinkSettings):
    """What every sink at AWS has."""

    profile: str = ""
    """The AWS profile whose credentials to use. Default: the ambient credentials."""
    region: str = ""
    """The AWS region. Default: that in the ARN or URL, then `AWS_REGION`, then the profile's."""


class EventBridgeSettings(AwsSettings):
    """An event bus of Amazon EventBridge."""

    kind: Literal["eventbridge"]
    """`eventbridge`"""
    bus: Annotated[str, Field(min_length=1)]
    """The name or the ARN of the event bus."""

    @property
    def place(self) -> str:
        """The event bus."""
        return self.bus


class SnsSettings(AwsSettings):
    """A topic of Amazon SNS."""

    kind: Literal["sns"]
    """`sns`"""
    topic_arn: Annotated[str, Field(pattern=r"^arn:[^:]+:sns:[a-z0-9-]+:\d{12}:[\w.-]+$")]
    """The ARN of the topic. The name of a FIFO topic ends with `.fifo`."""

    @property
    def place(self) -> str:
        """The topic."""
        return self.topic_arn


class SqsSettings(AwsSettings):
    """A queue of Amazon SQS."""

    kind: Literal["sqs"]
    """`sqs`"""
    queue_url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """The URL of the queue. The name of a FIFO queue ends with `.fifo`."""

    @property
    def place(self) -> str:
        """The queue."""
        return self.queue_url


class NatsSettings(SinkSettings):
    """A stream of NATS JetStream."""

    kind: Literal["nats"]
    """`nats`"""
    url: Annotated[str, Field(pattern=r"^(nats|tls)://[^@\s]+$")]
    """The server: `nats://HOST:PORT` or `tls://HOST:PORT`, without a user and a password."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")] = "imports.events"
    """An event is published to the NATS subject `PREFIX.TYPE`, which a stream must store."""
    token: Reference | None = None
    """Where the token of the server is."""
    credentials_file: Path | None = None
    """The file with the credentials of a NATS user (`.creds`)."""

    @property
    def place(self) -> str:
        """The server and the prefix."""
        return f"{self.url} {self.prefix}"

    def check_secrets(self) -> None:
        """Raise SecretError if a secret can't be read."""
        if self.token:
            read_secret(self.token)
        if self.credentials_file and not self.credentials_file.is_file():
            raise SecretError(f"credentials_file: {self.credentials_file}: no such file")


AnySink = Annotated[
    WebhookSettings | EventBridgeSettings | SnsSettings | SqsSettings | NatsSettings,
    Field(discriminator="kind"),
]


class SinksFile(BaseModel):
    """The tables `[sinks.NAME]` of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sinks: dict[str, AnySink] = {}

    @field_validator("sinks", mode="before")
    @classmethod
    def _names_are_short(cls, sinks: Any) -> Any:
        for name in sinks if isinstance(sinks, dict) else ():
            if not NAME.fullmatch(name):
                raise ValueError(
                    f'"{name}" is not a name of a sink: small letters, digits, - and _, 63 at most'
                )
        return sinks


def read_sinks(settings: Settings) -> dict[str, AnySink]:
    """Return the sinks of the file that IMPORTS_SINKS_FILE names, and those of single variables.

    Raises:
        SettingsError: if the file can't be read or is invalid, or if a secret can't be read. The
            message names the sink and its member.

    """
    found: dict[str, AnySink] = {}
    for label, tables in (_from_file(settings.sinks_file), *_from_variables(settings)):
        for name, sink in _validated(label, tables).items():
            if name in found:
                raise SettingsError(f"{label}: {name}: the sinks file has a sink of this name, too")
            found[name] = sink
    return found


def _from_file(path: Path | None) -> tuple[str, Mapping[str, Any]]:
    if path is None:
        return "", {}
    label = f"IMPORTS_SINKS_FILE {path}"
    try:
        return label, tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{label}: {error}") from error


def _from_variables(settings: Settings) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a variable and the table that the sinks file would have instead, for each one set."""
    webhook = {
        "url": settings.webhook_url,
        "secrets": ["env:IMPORTS_WEBHOOK_SECRET"],
        "allow_private": settings.webhook_allow_private,
    }
    tables: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("IMPORTS_WEBHOOK_URL", settings.webhook_url, "webhook", webhook),
        ("IMPORTS_EVENTBRIDGE_BUS", bus := settings.eventbridge_bus, "eventbridge", {"bus": bus}),
        ("IMPORTS_SNS_TOPIC_ARN", arn := settings.sns_topic_arn, "sns", {"topic_arn": arn}),
        ("IMPORTS_SQS_EVENTS_URL", url := settings.sqs_events_url, "sqs", {"queue_url": url}),
    )
    for variable, place, kind, table in tables:
        if place:
            yield variable, {"sinks": {kind: {"kind": kind, **table}}}


def _validated(label: str, tables: Mapping[str, Any]) -> dict[str, AnySink]:
    try:
        found = SinksFile.model_validate(tables).sinks
    except ValidationError as error:
        problems = "; ".join(
            _explain(detail["loc"], detail["msg"]) for detail in error.errors(include_url=False)
        )
        raise SettingsError(f"{label}: {problems}") from None
    for name, sink in found.items():
        try:
            sink.check_secrets()
        except SecretError as error:
            raise SettingsError(f"{label}: {name}: {error}") from None
    return found


def _explain(loc: tuple[int | str, ...], message: str) -> str:
    """Return a problem after the names of the sink and the member, without the kind."""
    _, *names = loc or ("",)
    shown = [str(name) for index, name in enumerate(names) if index != 1]
    return ": ".join((*shown, message.removeprefix("Value error, ")))


def _key_at(reference: Reference) -> bytes:
    secret = read_secret(reference)
    try:
        return key_of(secret)
    except ValueError as error:
        raise SecretError(f"{reference}: {error}") from None
