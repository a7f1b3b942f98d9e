"""Celery's configuration: only JSON, no loss with a worker, and the queues of the contract."""

from typing import Any

import pytest
from celery.app.defaults import SETTING_KEYS
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, loads, prepare_accept_content

from config.celery import celery_config
from config.settings import Settings


def config_of(**settings: Any) -> dict[str, Any]:
    return celery_config(Settings.model_validate(settings))


def read(body: bytes | str, content_type: str, encoding: str) -> Any:
    accept = prepare_accept_content(config_of()["accept_content"])
    return loads(body, content_type, encoding, accept=accept)


def test_messages_are_written_and_read_as_json() -> None:
    config = config_of()
    assert config["task_serializer"] == config["result_serializer"] == "json"
    content_type, encoding, body = dumps({"appId": "d1"}, serializer="json")
    assert read(body, content_type, encoding) == {"appId": "d1"}


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("application/x-python-serialize", id="pickle"),
        pytest.param("application/x-yaml", id="yaml"),
        pytest.param("application/x-msgpack", id="msgpack"),
    ],
)
def test_a_message_in_another_form_is_refused(content_type: str) -> None:
    with pytest.raises(ContentDisallowed):
        read(b"x", content_type, "binary")


def test_a_task_is_acknowledged_after_it_has_run() -> None:
    config = config_of()
    assert config["task_acks_late"]
    assert config["task_reject_on_worker_lost"]


def test_the_queues_are_declared_like_those_of_a_producer_that_knows_only_their_names() -> None:
    queues = {queue.name: queue for queue in config_of()["task_queues"]}
    assert queues.keys() == {"imports", "imports.admit", "imports.finish"}
    elsewhere = config_of(broker_url="amqp://broker")["task_queues"]
    assert {queue.name for queue in elsewhere} == {"imports", "imports.finish"}
    for name, queue in queues.items():
        assert (queue.exchange.name, queue.exchange.type, queue.routing_key) == (
            name,
            "direct",
            name,
        )
    assert config_of()["task_default_queue"] == "imports"


def test_a_result_is_kept_as_long_as_its_import() -> None:
    assert config_of(retention_seconds=3600)["result_expires"] == 3600


def test_broker_and_result_backend_come_from_the_settings() -> None:
    config = config_of(redis_url="redis://store", broker_url="amqp://broker")
    assert (config["broker_url"], config["result_backend"]) == ("amqp://broker", "redis://store")


@pytest.mark.parametrize(
    ("broker_url", "safe", "foreign"),
    [
        ("redis://store", "visibility_timeout", "confirm_publish"),
        ("rediss://store", "visibility_timeout", "confirm_publish"),
        ("sentinel://a?master_name=m", "visibility_timeout", "confirm_publish"),
        ("amqp://broker", "confirm_publish", "visibility_timeout"),
        ("amqps://broker", "confirm_publish", "visibility_timeout"),
    ],
)
def test_each_broker_gets_the_options_that_keep_messages_safe(
    broker_url: str, safe: str, foreign: str
) -> None:
    options = config_of(broker_url=broker_url)["broker_transport_options"]
    assert options[safe]
    assert foreign not in options


@pytest.mark.parametrize(("lease", "visible"), [(60, 60), (2, 10)])
def test_messages_of_a_dead_worker_are_redelivered_after_about_a_lease(
    lease: float, visible: float
) -> None:
    options = config_of(broker_url="redis://store", lease_seconds=lease)["broker_transport_options"]
    sweep = options["unacked_restore_interval"] * options["unacked_restore_throttle"]
    assert (options["visibility_timeout"], sweep) == (visible, 5)


def test_an_unresponsive_redis_broker_is_given_up_after_a_while() -> None:
    options = config_of(broker_url="redis://store")["broker_transport_options"]
    assert 0 < options["socket_connect_timeout"] <= 10
    assert 0 < options["socket_timeout"] <= 10
    assert 0 < options["health_check_interval"] <= 10
    assert config_of()["broker_channel_error_retry"], (
        "a broker that refuses connections does not end the worker either"
    )
    assert options["socket_keepalive"]


def test_the_worker_needs_no_flags() -> None:
    config = config_of(worker_pool="solo", worker_concurrency=3)
    assert (config["worker_pool"], config["worker_concurrency"]) == ("solo", 3)
    assert config["worker_send_task_events"]
    assert not config["worker_hijack_root_logger"]


def test_celery_knows_every_name_of_the_configuration() -> None:
    assert config_of().keys() <= SETTING_KEYS
