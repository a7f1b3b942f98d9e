"""A producer that imports none of the worker's code, and the requests that it sends."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery
from redis import Redis

from tests.support.waiting import wait_until


def members(app: str = "d1", **more: Any) -> dict[str, Any]:
    """Return the members of a valid request."""
    return {
        "appId": app,
        "backendEnvironmentName": "staging",
        "userPoolId": "us-east-1_AbCdEf123",
        "webClientId": "webclient",
        "nativeClientId": "nativeclient",
        **more,
    }


def storage_members(app: str = "d1", **more: Any) -> dict[str, Any]:
    """Return the members of a valid request for a bucket."""
    return {
        "operation": "ImportBackendStorage",
        "appId": app,
        "backendEnvironmentName": "staging",
        "bucketName": "uploads",
        **more,
    }


_TASK_OF = {
    "ImportBackendAuth": "imports.import_backend_auth",
    "ImportBackendStorage": "imports.import_backend_storage",
}


class Producer:
    """A producer without any of the worker's code: a bare Celery client and a Redis client."""

    prefix = "imports:"
    """How the names of the streams begin."""

    def __init__(self, broker_url: str, store_url: str) -> None:
        self.store_url = store_url
        self.app = Celery("producer", broker=broker_url, backend=store_url, set_as_current=False)
        self.redis: Redis = Redis.from_url(store_url, decode_responses=True)

    def send(self, request: Mapping[str, Any], **options: Any) -> Any:
        """Enqueue one import, as the task of its operation."""
        task = _TASK_OF[request.get("operation", "ImportBackendAuth")]
        return self.app.send_task(task, kwargs=dict(request), queue="imports", **options)

    def send_batch(self, batch_id: str, requests: list[Any], **more: Any) -> Any:
        """Enqueue one message of a batch."""
        kwargs = {"batchId": batch_id, "requests": requests, **more}
        return self.app.send_task("imports.import_batch", kwargs=kwargs, queue="imports")

    def add(self, request: Any) -> str:
        """Add a request to the stream; text is added unchanged."""
        text = request if isinstance(request, str | bytes) else json.dumps(request)
        return str(self.redis.xadd(f"{self.prefix}requests", {"request": text}))

    def events(self, *types: str, import_id: str = "") -> list[dict[str, Any]]:
        """Return the events so far, filtered by type and import."""
        entries: Any = self.redis.xrange(f"{self.prefix}events")
        events = [json.loads(fields["event"]) for _, fields in entries]
        return [
            event
            for event in events
            if (not types or event["type"] in types)
            and import_id in ("", event["data"].get("importId"))
        ]

    def wait_for_event(self, type_: str, **where: Any) -> dict[str, Any]:
        """Wait for an event whose data include `where`."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.events(type_) if where.items() <= e["data"].items()]

        return wait_until(found, f"there is an event {type_} with {where}")[0]

    def close(self) -> None:
        """Close the connections."""
        self.app.close()
        self.redis.close()


@contextmanager
def producing(broker_url: str, store_url: str) -> Iterator[Producer]:
    """Open a producer for the length of the context."""
    producer = Producer(broker_url, store_url)
    try:
        yield producer
    finally:
        producer.close()
