"""The HTTP server as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1)."""

from functools import cache
from typing import Any, Final

from config.release import RELEASE
from worker.contract.answers import Accepted, BatchStatus, ImportStatus, ProblemDetails
from worker.contract.asyncapi import COMPONENTS, JSON_TEXT
from worker.contract.schemas import (
    TRACE,
    Schema,
    data_schemas,
    event_with,
    request_schema,
    schema_of,
)
from worker.domain.batches import MAX_BATCH_REQUESTS
from worker.domain.requests import IDENTIFIER_PATTERN, LONGEST_IDENTIFIER

PROBLEM: Final = "application/problem+json"

REFUSALS: Final = {
    "400": "A request is invalid; each wrong member is named. Nothing was admitted.",
    "401": "There is no valid token.",
    "404": "There is no such import or batch, or its record has expired.",
    "408": "The body did not arrive in time.",
    "409": "An importId or idempotencyKey belongs to another request. Nothing was admitted.",
    "413": "The body is too long.",
    "415": "The body is not JSON by its Content-Type, or it is compressed.",
    "429": "The token makes too many requests; Retry-After says when to go on.",
    "503": "The store can't be reached, or too many streams are open. Repeat the request.",
}


@cache
def openapi_document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "amplify-import-worker",
            "version": RELEASE,
            "description": "Imports existing Cognito user pools and S3 buckets into AWS Amplify"
            " apps. Submit requests, and follow what becomes of them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": [{"name": "imports"}, {"name": "batches"}, {"name": "server"}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/imports": {"post": _post_imports()},
        "/v1/imports/{importId}": {
            "parameters": [_identifier("importId")],
            "get": _read("getImport", "imports", "Return an import as it stands.", "ImportStatus"),
        },
        "/v1/batches/{batchId}": {
            "parameters": [_identifier("batchId")],
            "get": _read("getBatch", "batches", "Return a batch in numbers.", "BatchStatus"),
        },
        "/v1/batches/{batchId}/events": {
            "parameters": [_identifier("batchId")],
            "get": _stream(),
        },
        "/openapi.json": {"get": _open("getOpenapi", "Return this document.", JSON_TEXT)},
        "/livez": {"get": _open("getLivez", "Answer if the server runs.", "text/plain")},
        "/readyz": {"get": _readiness()},
    }


def _schemas() -> dict[str, Schema]:
    request = {key: value for key, value in request_schema().items() if key != "$schema"}
    answers = (Accepted, ImportStatus, BatchStatus, ProblemDetails)
    return {
        "Request": request,
        **{model.__name__: schema_of(model, "serialization") for model in answers},
        "Event": event_with(COMPONENTS),
        **data_schemas(),
    }


def _post_imports() -> dict[str, Any]:
    return {
        "operationId": "submitImports",
        "tags": ["imports"],
        "summary": "Submit one request, or all of an array or none.",
        "parameters": [
            _header(
                "Idempotency-Key",
                "The same key and the same body are the same imports. Of one request, it is its"
                " member idempotencyKey. Of an array, the import ids follow from it.",
                {"type": "string", "minLength": 1, "maxLength": 258},
            ),
            *(_header(name, str(schema["description"]), schema) for name, schema in TRACE.items()),
        ],
        "requestBody": {
            "required": True,
            "content": {JSON_TEXT: {"schema": _one_or_many("Request", MAX_BATCH_REQUESTS)}},
        },
        "responses": {
            "202": {
                "description": "The imports were admitted now, or by an earlier request.",
                "headers": {
                    "Location": {
                        "description": "The import, if the body is one request.",
                        "schema": {"type": "string", "format": "uri-reference"},
                    }
                },
                "content": {JSON_TEXT: {"schema": _one_or_many("Accepted", MAX_BATCH_REQUESTS)}},
            },
            **_refusals("400", "401", "408", "409", "413", "415", "429", "503"),
        },
    }


def _stream() -> dict[str, Any]:
    return {
        "operationId": "streamBatchEvents",
        "tags": ["batches"],
        "summary": "Send a batch's events as they happen, until the batch is complete.",
        "description": "Server-sent events. `event` is the type of the event, `data` the event as"
        " JSON (the schema Event), and `id` its place in the stream. Messages with the type"
        " `progress` have the counts (the schema BatchStatus) and no id.",
        "parameters": [
            _header(
                "Last-Event-ID",
                "The id behind which to begin. By default, all events of the batch that are kept.",
                {"type": "string", "pattern": "^[0-9]{1,18}(-[0-9]{1,18})?$"},
            )
        ],
        "responses": {
            "200": {
                "description": "The events.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            "204": {"description": "The batch is complete, and there are no more events."},
            **_refusals("400", "401", "404", "429", "503"),
        },
    }


def _read(operation: str, tag: str, summary: str, schema: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "tags": [tag],
        "summary": summary,
        "responses": {
            "200": {
                "description": "It is known.",
                "content": {JSON_TEXT: {"schema": _ref(schema)}},
            },
            **_refusals("401", "404", "429", "503"),
        },
    }


def _open(operation: str, summary: str, content_type: str) -> dict[str, Any]:
    kind = "object" if content_type == JSON_TEXT else "string"
    content = {content_type: {"schema": {"type": kind}}}
    return {
        "operationId": operation,
        "tags": ["server"],
        "summary": summary,
        "security": [],
        "responses": {"200": {"description": "It runs.", "content": content}},
    }


def _readiness() -> dict[str, Any]:
    answer = _open("getReadyz", "Answer whether the server takes requests now.", "text/plain")
    reason = {
        "description": "It takes none now.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    answer["responses"]["503"] = reason
    return answer


def _refusals(*statuses: str) -> dict[str, Any]:
    content = {PROBLEM: {"schema": _ref("ProblemDetails")}}
    return {each: {"description": REFUSALS[each], "content": content} for each in statuses}


def _one_or_many(name: str, most: int) -> Schema:
    many = {"type": "array", "minItems": 1, "maxItems": most, "items": _ref(name)}
    return {"oneOf": [_ref(name), many]}


def _ref(name: str) -> Schema:
    return {"$ref": COMPONENTS + name}


def _header(name: str, description: str, schema: Schema) -> dict[str, Any]:
    bare = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "in": "header", "description": description, "schema": bare}


def _identifier(name: str) -> dict[str, Any]:
    schema = {
        "type": "string",
        "pattern": IDENTIFIER_PATTERN.pattern,
        "maxLength": LONGEST_IDENTIFIER,
    }
    return {"name": name, "in": "path", "required": True, "schema": schema}
