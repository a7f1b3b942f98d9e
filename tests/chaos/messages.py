"""Messages that no producer should send, drawn from a seed: the same index is the same message.

Most are valid ones with something changed. What is drawn here ends by itself if it is accepted: no
account without credentials, no batch whose rule holds imports back for ever.
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
class Sent:
    """One message. `import_ids` are those of which one must be known if it was not discarded."""

    raw: bytes
    task_id: str = ""
    import_ids: tuple[str, ...] = ()
    field: str = "request"
    """The field of a stream's entry."""


def nested(depth: int) -> Any:
    """Return a value that is nested so deep."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def junk(dice: Random) -> Any:
    """Return a value that is hardly ever the right one."""
    return dice.choice(
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
        if dice.random() < 0.95
        else (HUGE, nested(50), nested(400), {HUGE: HUGE})
    )


def request_of(dice: Random, index: int) -> Any:
    """Return a request, of which few are valid."""
    request: dict[str, Any] = members(f"d{index}")
    kind = dice.random()
    if kind < VALID_SHARE:
        return request
    if kind < 0.05:
        return junk(dice)
    for _ in range(dice.randint(1, 3)):
        name = dice.choice(MEMBERS)
        if dice.random() < 0.3:
            request.pop(name, None)
        elif name != "account" or dice.random() < 0.5:
            request[name] = junk(dice)
        request[dice.choice(("app_id", "extra", "userPoolId"))] = junk(dice)
    return request


def stream_message(dice: Random, index: int) -> Sent:
    """Return the text of the field `request`; what the entry's id is, is known once it is added."""
    kind = dice.random()
    request = request_of(dice, index)
    own: tuple[str, ...] = ()
    if isinstance(request, dict) and kind < 0.3:
        given = f"own-{index - index % 5}" if kind < 0.1 else f"own-{index}"
        request["importId"] = given
    if isinstance(request, dict) and isinstance(request.get("importId"), str):
        own = (request["importId"],)
    text = json.dumps(request).encode()
    if 0.3 <= kind < 0.4:
        text = mangled(dice, text)
        own = ()
    name = "request" if dice.random() < 0.98 else "other"
    return Sent(raw=text, import_ids=own, field=name)


def mangled(dice: Random, text: bytes) -> bytes:
    """Return bytes that are no longer what they were."""
    cut = dice.randrange(len(text) + 1)
    return dice.choice(
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
            dice.randbytes(40),
        )
    )


def task_message(dice: Random, index: int) -> Sent:
    """Return a message of the Celery door for one import."""
    task_id = f"task-{index}" if dice.random() < 0.98 else f"task-{max(0, index - 7)}"
    request = request_of(dice, index)
    kwargs = request if dice.random() < 0.97 else junk(dice)
    return _enveloped(dice, task_id, IMPORT_TASK, kwargs)


def batch_message(dice: Random, index: int) -> Sent:
    """Return a message of the Celery door for a batch."""
    size = dice.choice((1, 1, 2, 3)) if dice.random() < 0.9995 else 1001
    requests: Any = [request_of(dice, index * 4 + n % 4) for n in range(size)]
    batch: dict[str, Any] = {"batchId": f"b{index - index % 3}", "requests": requests}
    if dice.random() < 0.05:  # an id twice
        requests += [{**members(f"dtwice{index}"), "importId": f"twice-{index}"}] * 2
    if dice.random() < 0.5:
        batch["offset"] = dice.choice((0, 1, 1000, 10**9))
    if dice.random() < 0.3:
        batch["total"] = dice.choice((0, 1, 10**6))
    if dice.random() < 0.3:
        batch["canary"] = dice.choice((0, 1, 3, 10**6))
    if dice.random() < 0.3:
        name = dice.choice(("batchId", "requests", "offset", "total", "canary", "stopPercent", "x"))
        batch[name] = junk(dice)
    return _enveloped(dice, f"batch-{index}", BATCH_TASK, batch)


def _enveloped(dice: Random, task_id: str, task: str, kwargs: Any) -> Sent:
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
            "delivery_tag": f"tag-{dice.getrandbits(64):x}",
        },
    }
    for _ in range(dice.choice((0, 0, 0, 0, 1, 1, 2))):
        body = dice.choice(CHANGES)(dice, message, body)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    if not message["body"]:
        message["body"] = base64.b64encode(text).decode()
    raw = json.dumps(message).encode()
    if dice.random() < 0.02:
        raw = mangled(dice, raw)
    # In protocol 1 the id stands in the body; the sender knows the task by it.
    given = body.get("id") if isinstance(body, dict) else headers.get("id")
    own = given if isinstance(given, str) and "\ud800" not in given else task_id
    other = correlation_id(message)
    names = (raw.decode(errors="replace"), str(message_tag(message)), own, other)
    ids = (task_id, str(given), other, *(derive_import_id("message", name) for name in names))
    return Sent(raw=raw, task_id=own, import_ids=ids)


def correlation_id(message: dict[str, Any]) -> str:
    """Return the id under which a message is known that has no other one, '' for none."""
    properties = message["properties"]
    found = properties.get("correlation_id") if isinstance(properties, dict) else None
    return found if isinstance(found, str) and "\ud800" not in found else ""


def message_tag(message: dict[str, Any]) -> object:
    """Return the delivery tag, under which a message without a task id is known.

    One with a lone surrogate is no JSON to the store: such a message is known by its text.
    """
    properties = message["properties"]
    tag = properties.get("delivery_tag") if isinstance(properties, dict) else None
    return ascii(tag) if isinstance(tag, str) and "\ud800" in tag else tag


Change = Callable[[Random, dict[str, Any], Any], Any]


def _change_header(dice: Random, message: dict[str, Any], body: Any) -> Any:
    headers = message["headers"]
    if isinstance(headers, dict):
        headers[dice.choice((*headers, "shadow", "stamps", "stamped_headers"))] = junk(dice)
    return body


def _drop_header(dice: Random, message: dict[str, Any], body: Any) -> Any:
    if isinstance(message["headers"], dict) and message["headers"]:
        del message["headers"][dice.choice(tuple(message["headers"]))]
    return body


def _change_time(dice: Random, message: dict[str, Any], body: Any) -> Any:
    if isinstance(message["headers"], dict):
        when = dice.choice(("1999-01-01T00:00:00", "2001-01-01T00:00:00+00:00", "soon", 7, ""))
        message["headers"][dice.choice(("eta", "expires"))] = when
    return body


def _change_property(dice: Random, message: dict[str, Any], body: Any) -> Any:
    properties = message["properties"]
    if isinstance(properties, dict) and properties:
        properties[dice.choice(tuple(properties))] = junk(dice)
    return body


def _change_delivery(dice: Random, message: dict[str, Any], body: Any) -> Any:
    info = {"exchange": junk(dice), "routing_key": junk(dice)}
    if isinstance(message["properties"], dict):
        message["properties"]["delivery_info"] = dice.choice((info, {}))
    return body


def _change_part(dice: Random, message: dict[str, Any], body: Any) -> Any:
    name = dice.choice(tuple(message))
    if dice.random() < 0.5 and name != "headers":
        message[name] = dice.choice(
            ("utf-16", "text/plain", "application/x-python-serialize", "application/x-yaml", "???")
        )
    else:
        message[name] = junk(dice)
    message.setdefault("headers", {})
    return body


def _change_body(dice: Random, _: dict[str, Any], body: Any) -> Any:
    if isinstance(body, bytes):
        return body
    if dice.random() < 0.5:
        return dice.choice(
            ([], {}, "text", None, 7, [1, 2, 3, 4, 5], [[], {}], b"[" * 2000 + b"]" * 2000)
        )
    return mangled(dice, json.dumps(body).encode())


def _change_embedded(dice: Random, _: dict[str, Any], body: Any) -> Any:
    if not isinstance(body, list) or len(body) != 3 or not isinstance(body[2], dict):
        return body
    nobody = {"task": "nobody.listens", "args": [], "kwargs": {}, "options": {"queue": "nowhere"}}
    name = dice.choice(("callbacks", "errbacks", "chain", "chord"))
    return [*body[:2], {**body[2], name: dice.choice((junk(dice), [nobody], [junk(dice)]))}]


def _change_arguments(dice: Random, _: dict[str, Any], body: Any) -> Any:
    if not isinstance(body, list) or len(body) != 3:
        return body
    return [dice.choice((junk(dice), [junk(dice)])), *body[1:]]


def _of_protocol_1(dice: Random, message: dict[str, Any], body: Any) -> Any:
    if not isinstance(body, list) or len(body) != 3 or not isinstance(message["headers"], dict):
        return body
    old = {name: message["headers"].get(name) for name in ("task", "id", "retries", "eta")}
    message["headers"] = {}
    changed = {dice.choice((*old, "args", "utc", "expires")): junk(dice)}
    return {**old, "args": body[0], "kwargs": body[1], **(changed if dice.random() < 0.5 else {})}


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
    _of_protocol_1,
)

DOORS: Final[dict[str, Callable[[Random, int], Sent]]] = {
    "task": task_message,
    "batch": batch_message,
    "stream": stream_message,
}


def message_of(seed: int, door: str, index: int) -> Sent:
    """Return the message of a seed, a door and an index."""
    return DOORS[door](Random(f"{seed}/{door}/{index}"), index)
