"""The entry points and the events as an AsyncAPI 3 document (https://www.asyncapi.com)."""

from collections.abc import Mapping
from typing import Any, Final

from config.release import RELEASE
from worker.contract.schemas import (
    TRACE,
    Schema,
    batch_schema,
    data_schemas,
    event_with,
    request_schema,
)
from worker.domain.events import EventType
from worker.operations.registry import OPERATIONS

ASYNCAPI: Final = "3.0.0"
JSON_TEXT: Final = "application/json"
COMPONENTS: Final = "#/components/schemas/"

CELERY_HEADERS: Final[Schema] = {
    "type": "object",
    "description": "Headers of Celery's message protocol 2.",
    "required": ["task", "id"],
    "properties": {
        "task": {"type": "string"},
        "id": {"type": "string", "description": "The task id. It is the import id."},
        **TRACE,
    },
}
NOT_IN_TASKS: Final = {"importId", *TRACE}
"""Members of requests that Celery tasks have elsewhere."""


def asyncapi_document() -> dict[str, Any]:
    """Return the document. It is of version 3.0 of the specification, which most tools read."""
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "amplify-import-worker",
            "version": RELEASE,
            "description": "Imports existing Cognito user pools into Amplify apps, in bulk."
            " Entry points take requests, and a stream reports what becomes of them.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON_TEXT,
        "channels": _channels(),
        "operations": {
            "takeTasks": _operation("receive", "tasks", "Workers admit what messages ask for."),
            "takeRequests": _operation("receive", "requests", "Workers admit each request."),
            "takeMessages": _operation("receive", "queue", "Workers admit each request."),
            "reportEvents": _operation(
                "send", "events", f"Workers report: {', '.join(EventType)}."
            ),
        },
        "components": {"schemas": data_schemas()},
    }


def _channels() -> dict[str, Any]:
    return {
        "tasks": _channel(
            "imports",
            "The Celery queue, on Redis or RabbitMQ. A message asks for one import, or for"
            " those of a batch.",
            {name: _task(name) for name in OPERATIONS.operations} | {"Batch": _batch_task()},
        ),
        "requests": _channel(
            "imports:requests",
            "The Redis stream of requests. An entry asks for one import.",
            {"Entry": _entry("request", "An import request.", _bare(request_schema()), TRACE)},
        ),
        "queue": _channel(
            None,
            "The queue of Amazon SQS in IMPORTS_SQS_REQUESTS_URL. A message asks for one import.",
            {"Message": _queued(_bare(request_schema()))},
        ),
        "events": _channel(
            "imports:events",
            "The Redis stream of events, as CloudEvents 1.0 in JSON.",
            {"Event": _entry("event", "An event.", event_with(COMPONENTS))},
        ),
    }


def _channel(address: str | None, description: str, messages: dict[str, Any]) -> dict[str, Any]:
    return {"address": address, "description": description, "messages": messages}


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
    }


def _task(operation: str) -> dict[str, Any]:
    schemas = {part["title"]: part for part in request_schema()["anyOf"]}
    properties = schemas[operation]["properties"].items()
    members = {name: member for name, member in properties if name not in NOT_IN_TASKS}
    required = [name for name in schemas[operation]["required"] if name != "operation"]
    arguments = {**schemas[operation], "properties": members, "required": required}
    return _message(OPERATIONS.tasks[operation], f"Asks for an {operation}.", arguments)


def _batch_task() -> dict[str, Any]:
    return _message("imports.import_batch", "Asks for imports of a batch.", _bare(batch_schema()))


def _message(task: str, summary: str, arguments: Schema) -> dict[str, Any]:
    headers = {
        **CELERY_HEADERS,
        "properties": {**CELERY_HEADERS["properties"], "task": {"const": task}},
    }
    body = {
        "type": "array",
        "description": "Celery's body: positional arguments, keyword arguments, and callbacks.",
        "minItems": 3,
        "maxItems": 3,
        "items": [
            {"type": "array", "maxItems": 0},
            arguments,
            {"type": "object"},
        ],
    }
    return {"name": task, "summary": summary, "headers": headers, "payload": body}


def _queued(request: Schema) -> dict[str, Any]:
    attributes = {
        "type": "object",
        "description": "Attributes of the message.",
        "properties": TRACE,
    }
    summary = "An import request."
    return {"name": "message", "summary": summary, "headers": attributes, "payload": request}


def _entry(
    field: str, summary: str, content: Schema, others: Mapping[str, Schema] | None = None
) -> dict[str, Any]:
    fields = {
        "type": "object",
        "required": [field],
        "properties": {
            field: {
                "type": "string",
                "contentMediaType": JSON_TEXT,
                "contentSchema": content,
            },
            **(others or {}),
        },
    }
    return {"name": field, "summary": summary, "payload": fields}


def _bare(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "$schema"}
