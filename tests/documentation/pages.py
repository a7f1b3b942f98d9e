"""The reference pages whose content the code defines.

`make docs` writes them, and a test compares those that are there with what this returns.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, get_args

import click
from pydantic.fields import FieldInfo

from config.settings import LaneSettings, Settings
from tests.documentation.messages import messages
from tests.support import PROJECT
from worker.cli.main import main
from worker.contract.asyncapi import asyncapi_document
from worker.contract.openapi import openapi_document
from worker.contract.schemas import DOCUMENTS
from worker.domain.batches import BatchMessage
from worker.domain.requests import ImportRequest
from worker.metrics.catalogue import LABELS, WORKER, Metric
from worker.metrics.http_catalogue import HTTP
from worker.metrics.relay_catalogue import RELAY
from worker.metrics.store_catalogue import BATCHES, STORE
from worker.operations.import_backend_auth import ImportBackendAuthRequest
from worker.operations.import_backend_storage import ImportBackendStorageRequest
from worker.relay.sinksfile import (
    EventBridgeSettings,
    NatsSettings,
    SinkSettings,
    SnsSettings,
    SqsSettings,
    WebhookSettings,
)
from worker.store.keys import CATALOGUE
from worker.store.overview import BATCHES_READ

DIRECTORY: Final = PROJECT / "docs" / "reference"
HELP_WIDTH: Final = 90

NOTE: Final = "<!-- Made by `make docs` from the code; edit the code instead. -->"


_OPERATION: Final = FieldInfo.merge_field_infos(
    ImportRequest.model_fields["operation"], default="ImportBackendAuth"
)
"""Each operation's own request has it by default."""


def settings_page() -> str:
    """Return the page of all settings, and of the members of the lanes file."""
    rows = (
        (f"`IMPORTS_{name.upper()}`", _default(field), _limits(field), _text(field))
        for name, field in Settings.model_fields.items()
    )
    members = (
        (f"`{name}`", _limits(field), _text(field))
        for name, field in LaneSettings.model_fields.items()
    )
    return _page(
        "Settings",
        "Settings are environment variables. Workers and the command line read the same ones. A"
        " *lane* is the scope of one AWS rate limit: an account and a region. A *start* is a call"
        " that starts a job; a *poll* is a call that asks for its status. An empty default means"
        " that the variable is not set.",
        "An empty variable counts as unset, and blanks around a value are dropped. With an invalid"
        " value, a worker or command exits at startup and names the variable. AWS's own variables"
        " (`AWS_PROFILE`, `AWS_REGION`, `AWS_CONFIG_FILE`, `AWS_ENDPOINT_URL_AMPLIFYBACKEND` and"
        " others) keep their meaning; no setting repeats them.",
        *_table(("variable", "default", "values", "meaning"), rows),
        "## The lanes file",
        "`IMPORTS_LANES_FILE` names a TOML file. `[defaults]` applies to every lane, and"
        ' `[lanes."account/region"]` to one. A rate or burst that is not set is learned.'
        " [Limits](../guides/limits.md) shows an example and the order of precedence.",
        *_table(("member", "values", "meaning"), members),
        "## The sinks file",
        "`IMPORTS_SINKS_FILE` names a TOML file with a table `[sinks.NAME]` for each sink. A name"
        " has small letters, digits, `-` and `_`. `*` and `?` in types and batches stand for any"
        " text and any character. [Send events on](../guides/sinks.md) shows examples.",
        "### Members of every sink",
        *_sink_members(SinkSettings, ()),
        *(
            part
            for title, model in SINKS.items()
            for part in (f"### {title}", *_sink_members(model, SinkSettings.model_fields))
        ),
    )


SINKS: Final[Mapping[str, type[SinkSettings]]] = {
    "Webhook": WebhookSettings,
    "EventBridge": EventBridgeSettings,
    "SNS": SnsSettings,
    "SQS": SqsSettings,
    "NATS JetStream": NatsSettings,
}


def _sink_members(model: type[SinkSettings], known: Collection[str]) -> list[str]:
    """Return the table of a sink's members, without those that are known already."""
    rows = (
        (f"`{name}`", "required" if field.is_required() else _sink_default(field), _text(field))
        for name, field in model.model_fields.items()
        if name not in known
    )
    return _table(("member", "default", "meaning"), rows)


def _sink_default(field: FieldInfo) -> str:
    return f"`{json.dumps(list(field.default))}`" if field.default == ("*",) else _default(field)


def keys_page() -> str:
    """Return the page of all keys in the store."""
    rows = (
        (f"`{key.name}{'…' if key.name.endswith(':') else ''}`", key.type, key.holds, key.lifetime)
        for key in CATALOGUE
    )
    return _page(
        "Keys in Redis",
        "These keys hold the state of all imports. They are internal: their layout may change with"
        " any release. Programs should read [events](events.md) or use the"
        " [command line](cli.md).",
        "In [a cluster](../guides/servers.md#redis-cluster), all of these names begin with"
        " `{imports}:` instead of `imports:`.",
        "`…` in a key stands for a suffix. The column *holds* names the suffix, then `→`, then what"
        " the key holds. A *zset* is a sorted set; *by* says what orders it. The retention time is"
        " `IMPORTS_RETENTION_SECONDS` after the end of the import or batch. The"
        " [glossary](../glossary.md) defines the terms.",
        "Celery and Flower add keys of their own to the broker and the result backend:"
        " `imports.admit`, `imports.finish` and `imports` (queues), `unacked…`, `_kombu…`,"
        " `celery-task-meta-…` and others. `imports.junk` holds texts in the queue `imports` that"
        " are no Celery messages, until they are rejected.",
        *_table(("key", "type", "holds", "lifetime"), rows),
    )


def requests_page() -> str:
    """Return the page of what a request and a batch message hold."""
    return _page(
        "Requests",
        "A request is a JSON object of up to 16 KiB. It asks for one import.",
        "Member names are those of the AWS API; snake_case spellings work too. An unknown member or"
        " an invalid value makes the request a `rejected` import whose error names the member; by"
        " HTTP and from the Python client, it is an error and makes no import."
        " [Enqueue imports](../guides/produce.md) shows how to send requests.",
        "A request may also carry its own `importId` (up to 128 letters, digits and `._:@+=-`,"
        " beginning with a letter or digit), and `traceparent` and `tracestate`, which [tie it to a"
        " trace](../guides/tracing.md#continue-the-producers-trace). A Celery task takes none of"
        " the three: its task id is the import id, and its headers name the trace.",
        "## Members of every request",
        *_model({**ImportRequest.model_fields, "operation": _OPERATION}),
        "## ImportBackendAuth",
        *_members(ImportBackendAuthRequest),
        "## ImportBackendStorage",
        *_members(ImportBackendStorageRequest),
        "## Members of a batch message",
        "The keyword arguments of the task `imports.import_batch`.",
        *_model(BatchMessage.model_fields),
    )


_LETTER: Final = re.compile("[A-Za-z]")
"""A message without any is only what the program fills in."""

_NO_QUOTES: Final = str.maketrans("`", "'")
"""Messages stand in backquotes themselves."""


def messages_page() -> str:
    """Return the page of the messages that users meet."""
    found = sorted({(m.path, m.text) for m in messages() if _LETTER.search(m.text)})
    parts = []
    for path, group in groupby(found, key=itemgetter(0)):
        lines = [f"- `{text.translate(_NO_QUOTES)}`" for _, text in group]
        parts += [f"## {path}", "\n".join(lines)]
    return _page(
        "Messages",
        "What the program says to users: errors, reasons, advice and results of commands, by the"
        " file that says it. To find a message, search this page for words of it that are not names"
        " or numbers. Then look at [Troubleshoot](../guides/troubleshoot.md), or at that file.",
        "`{…}` stands for what the program fills in: a name, a number, or a reason.",
        *parts,
    )


def metrics_page() -> str:
    """Return the page of all metrics and their labels."""
    labels = ((f"`{name}`", meaning) for name, meaning in LABELS.items())
    return _page(
        "Metrics",
        "These are the metrics in Prometheus's text format and in OpenMetrics."
        " [Monitor](../guides/monitor.md) says how to scrape them and which values to watch.",
        "Names and labels are stable within a minor release. No label holds an import id or a"
        " target. Only `amplify-import metrics --batches` shows batch ids.",
        "## Metrics of a worker",
        "Each worker serves these if `IMPORTS_METRICS_PORT` is set. Counters begin at 0 when the"
        " worker starts; add up those of all workers.",
        *_metrics(WORKER),
        "## Metrics of a relay",
        "Each `amplify-import relay` serves these if `IMPORTS_METRICS_PORT` is set. The metrics of"
        " the store say what waits for the sinks.",
        *_metrics(RELAY),
        "## Metrics of an HTTP server",
        "Each `amplify-import serve` serves these if `IMPORTS_METRICS_PORT` is set.",
        *_metrics(HTTP),
        "## Metrics of the store",
        "These are about all imports in the store. `amplify-import metrics` prints or serves them."
        " A worker also serves them if `IMPORTS_METRICS_STORE` is `true`. They are read at each"
        " scrape, in four round trips to Redis, and one more if there are sinks. Of several lanes"
        " under the label `other`, the sum is shown; of ages, the greatest; of rates and limits,"
        " nothing.",
        *_metrics(STORE),
        "## Metrics of batches",
        "`amplify-import metrics --batches N` also shows these, of the N newest batches that are"
        " not over. A batch is over when all announced requests have arrived and all imports have"
        f" ended. Only the newest {BATCHES_READ:,} batches are looked at.",
        *_metrics(BATCHES),
        "## Labels",
        *_table(("label", "values"), labels),
    )


def _metrics(metrics: Iterable[Metric]) -> list[str]:
    rows = (
        (
            f"`{metric.name}`",
            str(metric.type),
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
        )
        for metric in metrics
    )
    return _table(("name", "type", "labels", "meaning"), rows)


def cli_page() -> str:
    """Return the page of the command line: every command's own help."""
    return _page(
        "Command line",
        "`amplify-import` is one program with many commands. This is what `--help` prints.",
        *_helps(main, click.Context(main, info_name="amplify-import"), level=2),
    )


def _json(make: Callable[[], dict[str, Any]]) -> str:
    return json.dumps(make(), indent=2, ensure_ascii=False) + "\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "keys.md": keys_page,
    "requests.md": requests_page,
    "cli.md": cli_page,
    "messages.md": messages_page,
    "metrics.md": metrics_page,
    **{f"schemas/{name}.json": partial(_json, make) for name, make in DOCUMENTS.items()},
    "schemas/asyncapi.json": partial(_json, asyncapi_document),
    "schemas/openapi.json": partial(_json, openapi_document),
}


def _helps(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    context.terminal_width = context.max_content_width = HELP_WIDTH
    yield f"{'#' * level} {context.command_path}"
    yield f"```text\n{command.get_help(context).rstrip()}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if member := command.get_command(context, name):
                inner = click.Context(member, parent=context, info_name=name)
                yield from _helps(member, inner, level + 1)


def _members(request: type[ImportRequest]) -> list[str]:
    """Return the table of what one operation's request holds beside what all hold."""
    own = {n: f for n, f in request.model_fields.items() if n not in ImportRequest.model_fields}
    return _model(own)


def _model(fields: Mapping[str, FieldInfo]) -> list[str]:
    rows = (
        (f"`{field.alias or name}`", "yes" if field.is_required() else "no", _text(field))
        for name, field in fields.items()
    )
    return _table(("member", "required", "meaning"), rows)


def _text(field: FieldInfo) -> str:
    if not field.description:
        raise ValueError(f"a member without a docstring: {field}")
    return " ".join(field.description.split())


def _default(field: FieldInfo) -> str:
    match field.default:
        case None | "" | frozenset() if not field.default:
            return ""
        case frozenset() as values:
            return f"`{','.join(sorted(values))}`"
        case bool() as value:
            return f"`{str(value).lower()}`"
        case float() as value:
            return f"`{value:g}`"
        case value:
            return f"`{value}`"


def _limits(field: FieldInfo) -> str:
    """Return which values a field takes, as far as its type says."""
    choices = [value for value in get_args(field.annotation) if isinstance(value, str) and value]
    if choices:
        return ", ".join(f"`{value}`" for value in choices)
    bounds = {
        name: value
        for part in _metadata(field)
        for name in ("ge", "gt", "le")
        if (value := getattr(part, name, None)) is not None
    }
    least = f"from {bounds['ge']:,}" if "ge" in bounds else "more than 0" if "gt" in bounds else ""
    most = f"to {bounds['le']:,}" if "le" in bounds else ""
    return " ".join(filter(None, (least, most)))


def _metadata(field: FieldInfo) -> Iterator[Any]:
    yield from field.metadata
    for part in get_args(field.annotation):
        for inner in getattr(part, "__metadata__", ()):
            yield from getattr(inner, "metadata", ())


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((NOTE, f"# {title}", *parts)) + "\n"


def write_pages() -> None:
    """Write each page into its file."""
    for name, page in PAGES.items():
        (DIRECTORY / name).write_text(page())
