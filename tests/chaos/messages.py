"""Messages that no producer should send, determined by a seed and an index.

Most are valid messages with a change. A message that is accepted must become an import that ends:
so there is no account without credentials, and no batch that holds its imports back forever.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.support import members
from worker.domain.requests import derive_import_id

BATCH_TASK: Final = "imports.import_batch"
IMPORT_TASK: Final = "imports.import_backend_auth"
HUGE: Final = "x" * 20_000
VALID_SHARE: Final = 0.02
MEMBERS: Final = (
    *members(),
    "identityPoolId",
    "account",
    "region",
    "idempotencyKey",
    "batchId",
    "priority",
    "deadlineSeconds",
    "metadata",
    "importId",
    "self",
    "args",
    "\ud800",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzMessage:
    """One message. Unless it is discarded, one of `import_ids` must be known."""

    raw: bytes
    task_id: str = ""
    import_ids: tuple[str, ...] = ()
    field: str = "request"
    """The field of the stream entry."""


def nested(depth: int) -> Any:
    """Return a list that is nested this deep."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def junk(rng: Random) -> Any:
    """Return a value that is hardly ever valid."""
    return rng.choice(
        (
            None,
            True,
            0,
            -1,
            10**30,
            1.5,
            float("nan"),
            float("inf"),
            "",
            " ",
            "\x00",
            "\ud800",
            "é\u2028",
            "imports:import:",
            "' OR 1 --",
            [],
            {},
            [1, "2"],
            {"a": {"b": None}},
            {"\udfff": "\ud800"},
        )
        if rng.random() < 0.95
        else (HUGE, nested(50), nested(400), {HUGE: HUGE})
    )


def request_of(rng: Random, index: int) -> Any:
    """Return a request; few of them are valid."""
    request: dict[str, Any] = members(f"d{index}")
    kind = rng.random()
    if kind < VALID_SHARE:
        return request
    if kind < 0.05:
        return junk(rng)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(MEMBERS)
        if rng.random() < 0.3:
            request.pop(name, None)
        elif name != "account" or rng.random() < 0.5:
            request[name] = junk(rng)
        request[rng.choice(("app_id", "extra", "userPoolId"))] = junk(rng)
    return request


def stream_message(rng: Random, index: int) -> FuzzMessage:
    """Return the text of the field `request`. The entry's id is known once it is added."""
    kind = rng.random()
    request = request_of(rng, index)
    own: tuple[str, ...] = ()
    if isinstance(request, dict) and kind < 0.3:
        given = f"own-{index - index % 5}" if kind < 0.1 else f"own-{index}"
        request["importId"] = given
    if isinstance(request, dict) and isinstance(request.get("importId"), str):
        own = (request["importId"],)
    text = json.dumps(request).encode()
    if 0.3 <= kind < 0.4:
        text = mangled(rng, text)
        own = ()
    name = "request" if rng.random() < 0.98 else "other"
    return FuzzMessage(raw=text, import_ids=own, field=name)


def mangled(rng: Random, text: bytes) -> bytes:
    """Return damaged bytes."""
    cut = rng.randrange(len(text) + 1)
    return rng.choice(
        (
            b"",
            b"null",
            b"[]",
            b"{",
            b"[" * 5000,
            b'{"a":' * 2000,
            text[:cut],
            text[:cut] + b"\xff\xfe\x00" + text[cut:],
            text * 3,
            text.decode().encode("utf-16"),
            rng.randbytes(40),
        )
    )


def task_message(rng: Random, index: int) -> FuzzMessage:
    """Return a message of the Celery task for one import."""
    task_id = f"task-{index}" if rng.random() < 0.98 else f"task-{max(0, index - 7)}"
    request = request_of(rng, index)
    kwargs = request if rng.random() < 0.97 else junk(rng)
    return _enveloped(rng, task_id, IMPORT_TASK, kwargs)


def batch_message(rng: Random, index: int) -> FuzzMessage:
    """Return a message of the Celery task for a batch."""
    size = rng.choice((1, 1, 2, 3)) if rng.random() < 0.9995 else 1001
    requests: Any = [request_of(rng, index * 4 + n % 4) for n in range(size)]
    batch: dict[str, Any] = {"batchId": f"b{index - index % 3}", "requests": requests}
    if rng.random() < 0.05:  # the same id twice
        requests += [{**members(f"dtwice{index}"), "importId": f"twice-{index}"}] * 2
    if rng.random() < 0.5:
        batch["offset"] = rng.choice((0, 1, 1000, 10**9))
    if rng.random() < 0.3:
        batch["total"] = rng.choice((0, 1, 10**6))
    if rng.random() < 0.3:
        batch["canary"] = rng.choice((0, 1, 3, 10**6))
    if rng.random() < 0.3:
        name = rng.choice(("batchId", "requests", "offset", "total", "canary", "stopPercent", "x"))
        batch[name] = junk(rng)
    return _enveloped(rng, f"batch-{index}", BATCH_TASK, batch)


def _enveloped(rng: Random, task_id: str, task: str, kwargs: Any) -> FuzzMessage:
    body: Any = [[], kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "the fuzzer",
    }
    message: dict[str, Any] = {
        "body": "",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": task_id,
            "reply_to": "nobody",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "imports"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": f"tag-{rng.getrandbits(64):x}",
        },
    }
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2))):
        body = rng.choice(CHANGES)(rng, message, body)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    if not message["body"]:
        message["body"] = base64.b64encode(text).decode()
    raw = json.dumps(message).encode()
    if rng.random() < 0.02:
        raw = mangled(rng, raw)
    # In protocol 1 the id is in the body; the sender knows the task by it.
    given = body.get("id") if isinstance(body, dict) else headers.get("id")
    own = given if isinstance(given, str) and "\ud800" not in given else task_id
    other = correlation_id(message)
    names = (raw.decode(errors="replace"), str(message_tag(message)), own, other)
    ids = (task_id, str(given), other, *(derive_import_id("message", name) for name in names))
    return FuzzMessage(raw=raw, task_id=own, import_ids=ids)


def correlation_id(message: dict[str, Any]) -> str:
    """Return the correlation id, which identifies a message without another id; '' for none."""
    properties = message["properties"]
    found = properties.get("correlation_id") if isinstance(properties, dict) else None
    return found if isinstance(found, str) and "\ud800" not in found else ""


def message_tag(message: dict[str, Any]) -> object:
    """Return the delivery tag, which identifies a message without a task id.

    The store can't read JSON with a lone surrogate; the text identifies such a message.
    """
    properties = message["properties"]
    tag = properties.get("delivery_tag") if isinstance(properties, dict) else None
    return ascii(tag) if isinstance(tag, str) and "\ud800" in tag else tag


Change = Callable[[Random, dict[str, Any], Any], Any]


def _change_header(rng: Random, message: dict[str, Any], body: Any) -> Any:
    headers = message["headers"]
    if isinstance(headers, dict):
        headers[rng.choice((*headers, "shadow", "stamps", "stamped_headers"))] = junk(rng)
    return body


def _drop_header(rng: Random, message: dict[str, Any], body: Any) -> Any:
    if isinstance(message["headers"], dict) and message["headers"]:
        del message["headers"][rng.choice(tuple(message["headers"]))]
    return body


def _change_time(rng: Random, message: dict[str, Any], body: Any) -> Any:
    if isinstance(message["headers"], dict):
        when = rng.choice(("1999-01-01T00:00:00", "2001-01-01T00:00:00+00:00", "soon", 7, ""))
        message["headers"][rng.choice(("eta", "expires"))] = when
    return body


def _change_property(rng: Random, message: dict[str, Any], body: Any) -> Any:
    properties = message["properties"]
    if isinstance(properties, dict) and properties:
        properties[rng.choice(tuple(properties))] = junk(rng)
    return body


def _change_delivery(rng: Random, message: dict[str, Any], body: Any) -> Any:
    info = {"exchange": junk(rng), "routing_key": junk(rng)}
    if isinstance(message["properties"], dict):
        message["properties"]["delivery_info"] = rng.choice((info, {}))
    return body


def _change_part(rng: Random, message: dict[str, Any], body: Any) -> Any:
    name = rng.choice(tuple(message))
    if rng.random() < 0.5 and name != "headers":
        message[name] = rng.choice(
            ("utf-16", "text/plain", "application/x-python-serialize", "application/x-yaml", "???")
        )
    else:
        message[name] = junk(rng)
    message.setdefault("headers", {})
    return body


def _change_body(rng: Random, _: dict[str, Any], body: Any) -> Any:
    if isinstance(body, bytes):
        return body
    if rng.random() < 0.5:
        return rng.choice(
            ([], {}, "text", None, 7, [1, 2, 3, 4, 5], [[], {}], b"[" * 2000 + b"]" * 2000)
        )
    return mangled(rng, json.dumps(body).encode())


def _change_embedded(rng: Random, _: dict[str, Any], body: Any) -> Any:
    if not isinstance(body, list) or len(body) != 3 or not isinstance(body[2], dict):
        return body
    unknown_task = {
        "task": "nobody.listens",
        "args": [],
        "kwargs": {},
        "options": {"queue": "nowhere"},
    }
    name = rng.choice(("callbacks", "errbacks", "chain", "chord"))
    return [*body[:2], {**body[2], name: rng.choice((junk(rng), [unknown_task], [junk(rng)]))}]


def _change_arguments(rng: Random, _: dict[str, Any], body: Any) -> Any:
    if not isinstance(body, list) or len(body) != 3:
        return body
    return [rng.choice((junk(rng), [junk(rng)])), *body[1:]]


def _to_protocol_1(rng: Random, message: dict[str, Any], body: Any) -> Any:
    if not isinstance(body, list) or len(body) != 3 or not isinstance(message["headers"], dict):
        return body
    old = {name: message["headers"].get(name) for name in ("task", "id", "retries", "eta")}
    message["headers"] = {}
    changed = {rng.choice((*old, "args", "utc", "expires")): junk(rng)}
    return {**old, "args": body[0], "kwargs": body[1], **(changed if rng.random() < 0.5 else {})}


CHANGES: Final[tuple[Change, ...]] = (
    _change_header,
    _drop_header,
    _change_time,
    _change_property,
    _change_delivery,
    _change_part,
    _change_body,
    _change_embedded,
    _change_arguments,
    _to_protocol_1,
)

ENTRY_POINTS: Final[dict[str, Callable[[Random, int], FuzzMessage]]] = {
    "task": task_message,
    "batch": batch_message,
    "stream": stream_message,
}


def message_of(seed: int, entry_point: str, index: int) -> FuzzMessage:
    """Return the message of a seed, an entry point and an index."""
    return ENTRY_POINTS[entry_point](Random(f"{seed}/{entry_point}/{index}"), index)
