"""The checks of `doctor` that look at RabbitMQ's queues and at the port for metrics."""

import errno
import http.client
import socket
from typing import Any, Final

from amqp.exceptions import NotFound, PreconditionFailed
from celery import Celery

from config.settings import Settings
from worker.cli.checks import Check, Verdict
from worker.doors.consumer import QUEUE_REMEDY

ANSWER_SECONDS: Final = 2.0


def check_queues(app: "Celery", connection: Any) -> list[Check]:
    """Return a failed check for each queue that RabbitMQ has with other arguments.

    No queue is created: only one that exists is declared, as workers declare it.
    """
    if connection.transport.driver_type != "amqp":
        return []
    checks = []
    for queue in app.amqp.queues.values():
        # A refusal closes the channel.
        with connection.channel() as channel:
            try:
                queue(channel).queue_declare(passive=True)
                queue(channel).queue_declare()
            except NotFound:
                continue
            except PreconditionFailed as error:
                checks.append(Check("queues", Verdict.FAIL, str(error.reply_text), QUEUE_REMEDY))
    return checks


def check_metrics_port(settings: Settings) -> list[Check]:
    """Return a failed check if no worker on this machine could serve its metrics.

    A port on which a worker answers already is right.
    """
    host, port = settings.metrics_host, settings.metrics_port
    if not port:
        return []
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_a_workers(host, port):
            return []
        detail = f"{host}:{port} can't be listened on: {error.strerror or error}"
        remedy = "set IMPORTS_METRICS_PORT to a free port, and IMPORTS_METRICS_HOST to an address"
        return [Check("metrics port", Verdict.FAIL, detail, f"{remedy} of this machine")]
    return []


def _is_a_workers(host: str, port: int) -> bool:
    """Return whether a worker answers there."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return b"imports_" in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
