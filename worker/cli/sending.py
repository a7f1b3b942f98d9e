"""Sends the rows of a batch to the broker, as messages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.celery import celery_config
from config.names import BATCH_TASK, IMPORTS_QUEUE
from config.settings import Settings, SettingsError
from config.text import mask_text
from worker.cli.batchfile import Row
from worker.cli.client import UnreachableError, message_of
from worker.domain.imports import iso_time
from worker.domain.outcomes import NO_RULE, StopRule
from worker.domain.requests import derive_import_id
from worker.domain.schedules import AT_ONCE, Schedule
from worker.store.broker import refuse_to_be_blocked

REQUESTS_A_MESSAGE: Final = 500
BROKER_ERRORS: Final = (OperationalError, AMQPError, RedisError, OSError)
SEND_RETRIES: Final = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2}


def submit_batch(
    app: "Celery",
    batch_id: str,
    rows: Sequence[Row],
    total: int,
    rule: StopRule = NO_RULE,
    on_sent: Callable[[int], None] = lambda _: None,
    recover_since: str | None = None,
    schedule: Schedule = AT_ONCE,
) -> int:
    """Publish the rows as messages of one batch; return the number of messages.

    An import id is derived from the batchId and the row's content, a task id from the batchId and
    the position. So submitting the same rows again is harmless, and a corrected row is a new
    import. The first message that arrives determines the batch's stop rule and schedule. `total` is
    the number of imports in the batch. `on_sent` is called after each message with its number of
    requests. For `recover_since` see `BatchMessage`.

    Raises:
        UnreachableError: if the broker can't be reached. Messages that were sent before stay sent.

    """
    of_batch = {
        "batchId": batch_id,
        "total": total,
        "canary": rule.canary,
        "stopPercent": rule.stop_percent,
        **({"recoverSince": recover_since} if recover_since else {}),
        **_members_of(schedule),
    }
    offsets = range(0, len(rows), REQUESTS_A_MESSAGE)
    with _broker_errors(broker_of(app)):
        for offset in offsets:
            part = rows[offset : offset + REQUESTS_A_MESSAGE]
            requests = [_request_of(row, batch_id) for row in part]
            _send_message(app, {**of_batch, "requests": requests, "offset": offset})
            on_sent(len(part))
    return len(offsets)


def _members_of(schedule: Schedule) -> dict[str, Any]:
    """Return the members of a message; none without a schedule, as earlier releases know none."""
    start_at_ms = schedule.start_at_ms
    members = {
        "startAt": iso_time(start_at_ms) if start_at_ms is not None else None,
        "window": schedule.window,
        "maxPerHour": schedule.max_per_hour,
    }
    return {name: value for name, value in members.items() if value is not None}


def _send_message(app: "Celery", message: Mapping[str, Any]) -> None:
    name = f"amplify-import:{message['batchId']}:message:{message['offset']}"
    app.send_task(
        BATCH_TASK,
        kwargs=dict(message),
        queue=IMPORTS_QUEUE,
        task_id=str(uuid5(NAMESPACE_URL, name)),
        ignore_result=True,  # otherwise the client would subscribe to each result
        retry_policy=SEND_RETRIES,
    )


def producer_of(settings: Settings) -> "Celery":
    """Return a Celery application that publishes messages with these settings.

    It starts faster than the worker's, which imports everything that a worker needs.
    """
    refuse_to_be_blocked()
    app = Celery("amplify-import", set_as_current=False)
    app.conf.update(celery_config(settings))
    return app


def broker_of(app: "Celery") -> str:
    """Return the broker's URL for messages, without its password.

    Raises:
        SettingsError: if Celery can't use the URL.

    """
    try:
        app.connection_for_write().release()
    except (ImportError, KeyError, ValueError) as error:
        raise SettingsError(f"IMPORTS_BROKER_URL: {error.args[0]}") from error
    return mask_text(str(app.conf.broker_write_url))


def import_id_of(row: Row, batch_id: str) -> str:
    """Return a row's own importId, or the one derived from the batchId and the row's content."""
    return str(row.members.get("importId") or derive_import_id(batch_id, row.fingerprint))


def _request_of(row: Row, batch_id: str) -> dict[str, Any]:
    return {**row.members, "importId": import_id_of(row, batch_id)}


@contextmanager
def _broker_errors(broker: str) -> Iterator[None]:
    try:
        yield
    except BROKER_ERRORS as error:
        raise UnreachableError(f"The broker at {broker} {message_of(error)}") from error
