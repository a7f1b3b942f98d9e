"""JSON Schemas (draft 2020-12) of requests, batch messages and events, made from the models."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from worker.contract.events import ATTRIBUTES, DATA, OPTIONAL, dataschema_of
from worker.domain.batches import BatchMessage
from worker.domain.events import EventType
from worker.domain.requests import DEFAULT_OPERATION, IDENTIFIER_PATTERN, LONGEST_IDENTIFIER
from worker.operations.registry import OPERATIONS

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
DEFINITIONS: Final = "#/$defs/"
IMPORT_ID: Final[Schema] = {
    "type": "string",
    "pattern": IDENTIFIER_PATTERN.pattern,
    "maxLength": LONGEST_IDENTIFIER,
    "description": "The id of the import. Not for Celery tasks, whose task id it is.",
}
TRACE: Final[Mapping[str, Schema]] = {
    "traceparent": {
        "type": "string",
        "description": "The producer's place in a trace (W3C Trace Context). A Celery task has it"
        " in its headers. An invalid value is ignored.",
    },
    "tracestate": {"type": "string", "description": "What tracing tools add to `traceparent`."},
}


def request_schema() -> Schema:
    """Return the schema of one request, of any operation. Members are in camelCase."""
    return _document("An import request", _request())


def batch_schema() -> Schema:
    """Return the schema of a batch message: the keyword arguments of `imports.import_batch`."""
    schema = schema_of(BatchMessage, "validation")
    schema["properties"]["requests"]["items"] = _request()
    return _document("A batch message", schema)


def event_schema() -> Schema:
    """Return the schema of an event. Later releases may add members to `data`, and attributes."""
    return _document("An event", event_with(DEFINITIONS) | {"$defs": data_schemas()})


def event_with(definitions: str) -> Schema:
    """Return the schema of an event that refers to `data_schemas` in this place."""
    return {
        "type": "object",
        "required": [*ATTRIBUTES, "data"],
        "properties": {**ATTRIBUTES, **OPTIONAL, "data": {"type": "object"}},
        "allOf": [_case(kind, definitions + model.__name__) for kind, model in DATA.items()],
    }


def data_schemas() -> dict[str, Schema]:
    """Return the schemas of the data of events, by their names."""
    models = dict.fromkeys(DATA.values())
    return {model.__name__: schema_of(model, "serialization") for model in models}


def _case(kind: EventType, data: str) -> Schema:
    """Return the rule that events of a type have data by this schema."""
    return {
        "if": {"properties": {"type": {"const": str(kind)}}, "required": ["type"]},
        "then": {
            "properties": {"data": {"$ref": data}, "dataschema": {"const": dataschema_of(kind)}}
        },
    }


def _request() -> Schema:
    return {"anyOf": [_request_of(name) for name in OPERATIONS.operations]}


def _request_of(operation: str) -> Schema:
    schema = schema_of(OPERATIONS.operations[operation].request, "validation")
    schema["title"] = operation
    if operation != DEFAULT_OPERATION:
        schema["required"] = ["operation", *schema["required"]]
    schema["properties"] = {"importId": IMPORT_ID, **TRACE, **schema["properties"]}
    return schema


def schema_of(model: type[BaseModel], mode: Any) -> Schema:
    """Return a model's schema without references, and without titles that repeat names."""
    _, schemas = models_json_schema([(model, mode)], by_alias=True)
    definitions: Mapping[str, Schema] = schemas["$defs"]
    schema: Schema = _inlined(definitions[model.__name__], definitions)
    schema["title"] = model.__name__
    return schema


def _inlined(part: Any, definitions: Mapping[str, Schema]) -> Any:
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        part = {**definitions[name], **{k: v for k, v in part.items() if k != "$ref"}}
    found = {
        key: _inlined(value, definitions)
        for key, value in part.items()
        if key != "title" or not isinstance(value, str)
    }
    if isinstance(text := found.get("description"), str):
        found["description"] = " ".join(text.split())
    return found


def _document(title: str, schema: Schema) -> Schema:
    return {"$schema": DIALECT, "title": title, **{k: v for k, v in schema.items() if k != "title"}}


DOCUMENTS: Final[Mapping[str, Callable[[], Schema]]] = {
    "request": request_schema,
    "batch": batch_schema,
    "event": event_schema,
}
"""The schemas by the names under which they are published."""
