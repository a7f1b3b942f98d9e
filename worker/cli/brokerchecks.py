"""The checks of `doctor` that look at the broker, the workers, and the port for metrics."""

import errno
import http.client
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from amqp.exceptions import NotFound, PreconditionFailed
from celery import Celery
from redis.exceptions import ResponseError

from config.release import RELEASE
from config.settings import Settings
from worker.cli.checks import Check, Verdict, judge
from worker.doors.consumer import QUEUE_REMEDY

ANSWER_SECONDS: Final = 2.0
EARLIER: Final = "an earlier release"


def check_broker_mode(where: str, connection: Any) -> list[Check]:
    """Return a failed check if the broker is a node of a Redis Cluster."""
    if connection.transport.driver_type != "redis":
        return []
    try:
        is_node = connection.default_channel.client.info("cluster").get("cluster_enabled")
    except ResponseError:  # a user without this permission; other servers refuse nothing of it
        return []
    if not is_node:
        return []
    detail = f"{where} is a node of a Redis Cluster, which Celery can't use"
    remedy = "set IMPORTS_BROKER_URL to a Redis server that is not in cluster mode, or to RabbitMQ"
    return [Check("broker", Verdict.FAIL, detail, remedy)]


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


def judge_workers(answers: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Judge what workers answered to `stats`: each answer maps a worker's name to its reply.

    Workers of releases up to 0.2.0 don't say which release they are of.
    """
    replies = {name: reply for answer in answers for name, reply in answer.items()}
    names = sorted(replies)
    detail = f"{len(names)} answered: {', '.join(names)}" if names else "none answered"
    remedy = "start one: celery -A worker worker"
    workers = judge("workers", detail, well=bool(names), remedy=remedy)
    of_release: dict[str, list[str]] = {}
    for name in names:
        of_release.setdefault(replies[name].get("release", EARLIER), []).append(name)
    return [workers, *_about_releases(of_release)]


def _about_releases(workers: Mapping[str, Sequence[str]]) -> list[Check]:
    """Return a warning if the workers, or they and this command, are of several releases."""
    found = "; ".join(f"{release}: {', '.join(names)}" for release, names in workers.items())
    if len(workers) > 1:
        remedy = (
            "finish the upgrade, or roll it back: only neighboring releases may run together, and"
            " producers may use what is new when the last worker knows it; docs/guides/upgrade.md"
        )
        return [Check("releases", Verdict.WARN, found, remedy)]
    if workers and RELEASE not in workers:
        remedy = "upgrade the command line right after the workers; docs/guides/upgrade.md"
        detail = f"this command is of {RELEASE}, the workers of another release: {found}"
        return [Check("releases", Verdict.WARN, detail, remedy)]
    return []


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
