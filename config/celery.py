"""Celery's configuration. With it, `celery -A worker worker` needs no options."""

from typing import Any

from kombu import Exchange, Queue

from config.names import ADMIT_QUEUE, FINISH_QUEUE, IMPORTS_QUEUE
from config.servers import is_redis, server_of
from config.settings import Settings

VISIBILITY_TIMEOUT_MIN_SECONDS = 10.0
RESTORE_SECONDS = 5


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of the Celery application."""
    return {
        **_broker(settings.celery_broker_url, _transport_options(settings)),
        **_result_backend(settings.celery_result_backend),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # retry for as long as the broker is unavailable
        # The worker must not end either if a Redis broker is read-only or out of memory.
        "broker_channel_error_retry": True,
        "task_default_queue": IMPORTS_QUEUE,
        # The exchange and the routing key that a producer declares who knows only the queue's name.
        "task_queues": [
            Queue(name, Exchange(name), routing_key=name, queue_arguments=_arguments(settings))
            for name in _queues(settings)
        ],
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "result_expires": settings.retention_seconds,
        "redis_socket_timeout": 10.0,
        "redis_socket_connect_timeout": 5.0,
        "worker_consumer": "worker.doors.consumer:ImportsConsumer",
        "worker_pool": settings.worker_pool,
        "worker_concurrency": settings.worker_concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "timezone": "UTC",
    }


def _broker(url: str, options: dict[str, Any]) -> dict[str, Any]:
    if not is_redis(url):
        return {"broker_url": url, "broker_transport_options": options}
    server = server_of(url)
    return {
        "broker_url": server.celery_url,
        "broker_use_ssl": server.tls,
        "broker_transport_options": {**options, **server.celery_options},
    }


def _result_backend(url: str) -> dict[str, Any]:
    if not is_redis(url):
        return {"result_backend": url}
    server = server_of(url)
    return {
        "result_backend": server.celery_url,
        "redis_backend_use_ssl": server.tls,
        "result_backend_transport_options": server.celery_options,
    }


def _queues(settings: Settings) -> tuple[str, ...]:
    if settings.broker_is_redis:
        return (IMPORTS_QUEUE, ADMIT_QUEUE, FINISH_QUEUE)  # Celery does not consume the first
    return (IMPORTS_QUEUE, FINISH_QUEUE)


def _arguments(settings: Settings) -> dict[str, str] | None:
    return {"x-queue-type": settings.queue_type} if settings.queue_type else None


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not settings.broker_is_redis:
        return {"confirm_publish": True}
    visibility_seconds = max(settings.lease_seconds, VISIBILITY_TIMEOUT_MIN_SECONDS)
    return {
        # The broker redelivers the messages of a dead worker after about one lease, the time after
        # which its calls are taken over too. The timeout may be this short because tasks never
        # wait, and because admitting a request or completing a task twice is harmless.
        "visibility_timeout": visibility_seconds,
        # How often kombu looks for such messages. Its default is 100 s.
        "unacked_restore_interval": RESTORE_SECONDS,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": round(visibility_seconds),
        # Without these, the worker's loop would wait forever on a connection that died silently.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
