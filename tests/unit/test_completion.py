"""The request with which a task is completed is the one that a worker would make of its message."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.canvas import Signature
from celery.worker.request import Request
from kombu.utils.json import dumps

from worker.announcer.completion import Completion

TRANSIENT = ("hostname", "delivery_info", "properties", "lang")


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("completion", set_as_current=False)
    app.conf.update(broker_url="memory://", result_backend="cache+memory://")
    app.conf.update(task_default_queue="imports", accept_content=["json"])

    @app.task(name="work", typing=False, shared=False)
    def work(*args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    with app:
        yield app


def next_request(app: Celery, queue: str) -> Any:
    """Return the request that a worker makes of the next message in a queue."""
    with app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        message = simple.get(block=False)
        message.ack()
        simple.close()
    return Request(message, app=app)


def attributes_of(request: Any, body: Any) -> dict[str, Any]:
    args, kwargs, embedded = body
    given = {**request.request_dict, **embedded, "args": list(args), "kwargs": kwargs}
    return {name: value for name, value in given.items() if name not in TRANSIENT}


def options_of(app: Celery) -> dict[str, dict[str, Any]]:
    def work(*args: int, **options: Any) -> Signature:
        return app.signature("work", args=args, **options)

    return {
        "alone": {},
        "links": {"link": [work(1), work(2)], "link_error": work(3, immutable=True)},
        "chain": {"chain": [work(4), work(5)]},
        "group": {"group_id": "g", "group_index": 3},
        "chord": {"group_id": "g", "group_index": 0, "chord": work(6)},
        "root": {"root_id": "root", "parent_id": "parent"},
        "ignored": {"ignore_result": True},
        "limits": {"time_limit": 20, "soft_time_limit": 10},
        "reply": {"reply_to": "answers", "shadow": "other", "origin": "gen1@host"},
        "headers": {"headers": {"team": "blue"}, "priority": 3},
        "stamps": {"stamped_headers": ["tenant"], "tenant": "acme"},
        "reprs": {"argsrepr": "(hidden)", "kwargsrepr": "{hidden}"},
    }


@pytest.mark.parametrize("name", list(options_of(Celery(set_as_current=False))))
def test_the_request_is_that_of_the_message(app: Celery, name: str) -> None:
    task: Task[..., Any] = app.tasks["work"]
    task.apply_async(args=(1,), kwargs={"appId": "d1"}, task_id="t1", **options_of(app)[name])
    first = next_request(app, "imports")
    args, kwargs, embedded = first.body if isinstance(first.body, tuple) else json.loads(first.body)
    task.push_request({**first.request_dict, **embedded, "args": args, "kwargs": kwargs})
    kept = dumps(task.signature_from_request(queue="imports.finish", expires=None))
    task.pop_request()

    Signature.from_dict(json.loads(kept), app=app).apply_async()
    sent = next_request(app, "imports.finish")
    made = Completion(app)._request_of(Signature.from_dict(json.loads(kept), app=app))  # noqa: SLF001
    assert attributes_of(made, made.body) == attributes_of(sent, json.loads(sent.body))
    assert made.delivery_info["priority"] == sent.delivery_info["priority"]
