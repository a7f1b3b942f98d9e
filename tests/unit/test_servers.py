"""URLs of Redis servers: parsed once, and converted for kombu, Celery and redis-py."""

from pathlib import Path
from typing import Any

import pytest

from config.celery import celery_config
from config.servers import server_of
from config.settings import Settings, SettingsError, load_settings

WATCHED = "sentinel://u:p%40ss@a:1;sentinel://u:p%40ss@b/3?master_name=main"


def config_of(url: str) -> dict[str, Any]:
    return celery_config(Settings.model_validate({"redis_url": url}))


def test_sentinels_are_named_with_their_primary() -> None:
    server = server_of(WATCHED)
    assert server.hosts == (("a", 1), ("b", 26379))
    assert (server.master_name, server.db) == ("main", 3)
    assert server.login == {"username": "u", "password": "p@ss"}
    assert server.tls is None


def test_broker_and_results_get_the_sentinels_in_the_formats_of_kombu_and_celery() -> None:
    config = config_of(WATCHED)
    url = "sentinel://u:p%40ss@a:1/3;sentinel://u:p%40ss@b:26379/3"
    assert config["broker_url"] == config["result_backend"] == url
    for name in ("broker_transport_options", "result_backend_transport_options"):
        assert config[name]["master_name"] == "main"
        assert config[name]["sentinel_kwargs"]["socket_timeout"] == 2
    assert {queue.name for queue in config["task_queues"]} >= {"imports", "imports.admit"}


def test_sentinels_may_have_separate_credentials() -> None:
    server = server_of("sentinel://a?master_name=m&sentinel_username=s&sentinel_password=t%26")
    assert server.login == {}
    assert server.sentinel_arguments.items() >= {"username": "s", "password": "t&"}.items()


@pytest.mark.parametrize("url", ["rediss://a", "sentinel://a?master_name=m&ssl=true"])
def test_a_certificate_is_verified_unless_the_url_disables_that(url: str) -> None:
    config = config_of(url)
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        assert config[name] == {"ssl_cert_reqs": "required"}


def test_tls_options_are_separate_from_the_url(tmp_path: Path) -> None:
    authority = tmp_path / "my authority.pem"
    authority.touch()
    config = config_of(
        f"rediss://a/1?ssl_ca_certs={authority}&ssl_check_hostname=false&ssl_cert_reqs=optional"
    )
    assert config["broker_url"] == config["result_backend"] == "rediss://a:6379/1"
    assert (
        config["broker_use_ssl"]
        == config["redis_backend_use_ssl"]
        == {
            "ssl_ca_certs": str(authority),
            "ssl_check_hostname": False,
            "ssl_cert_reqs": "optional",
        }
    )


@pytest.mark.parametrize("url", ["redis://a", "redis://:p@a:1/2", "redis://[::1]:6380/0"])
def test_a_plain_url_stays_as_it_is(url: str) -> None:
    assert config_of(url)["broker_url"] == config_of(url)["result_backend"] == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sentinel://:secret@a:1", "master_name"),
        ("sentinel://:secret@a:1?master_name=", "master_name"),
        ("sentinel://:secret@a;redis://b?master_name=m", "same scheme"),
        ("sentinel://:secret@a;b?master_name=m", "scheme://"),
        ("sentinel://:secret@a?master_name=m&ssl=maybe", "ssl must be true or false"),
        ("sentinel://:secret@a?master_name=m&ssl_ca_certs=x", "needs ssl=true"),
        ("sentinel://:secret@a?master_name=m&timeout=3", "timeout is not known"),
        ("redis://:secret@a;redis://:secret@b", "several hosts"),
        ("redis+cluster://:secret@a;rediss+cluster://:secret@b", "same scheme"),
        ("redis+cluster://:secret@a/1", "only database 0"),
        ("redis+cluster://:secret@a?db=1", "db is not known"),
        ("redis+cluster://:secret@a?ssl_ca_certs=x", "needs rediss+cluster://"),
        ("redis+cluster://:secret@a?master_name=m", "only with sentinel://"),
        ("redis+cluster://:secret@a", "IMPORTS_BROKER_URL and IMPORTS_RESULT_BACKEND must name"),
        ("redis://:secret@a?master_name=m", "only with sentinel://"),
        ("redis://:secret@a?ssl_ca_certs=x", "needs rediss://"),
        ("redis://:sec/ret@a", "percent-encoded"),
        ("redis://:secret@a:port", "percent-encoded"),
        ("redis://:secret@a/db", "percent-encoded"),
        ("rediss://:secret@a?ssl_ca_certs=/nowhere.pem", "no file /nowhere.pem"),
        ("rediss://:secret@a?ssl_cert_reqs=never", "ssl_cert_reqs"),
        ("rediss://:secret@a?ssl_check_hostname=never", "ssl_check_hostname"),
        ("redis://:secret@a?timeout=3", "timeout is not known"),
        ("redis://:secret@a?db=one", "db must be"),
        ("redis://:secret@a/0#1", "percent-encoded"),
        ("unix://:secret@run/redis.sock", "unix:///path"),
        ("unix://:secret@/", "unix:///path"),
        ("unix://:secret@/run/redis.sock?ssl_ca_certs=x", "needs rediss://"),
        ("unix://:secret@/run/redis.sock?timeout=3", "timeout is not known"),
        ("redis+socket://:secret@/run/redis.sock?virtual_host=one", "db must be"),
        ("http://:secret@a", "must begin with"),
    ],
)
def test_a_bad_url_is_named_and_its_password_is_not(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setenv("IMPORTS_REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "IMPORTS_REDIS_URL" in str(caught.value)
    assert reason in str(caught.value)
    assert "sec" not in str(caught.value)


def test_another_kind_of_broker_is_passed_through() -> None:
    settings = Settings.model_validate({"broker_url": "amqp://a;amqp://b"})
    assert celery_config(settings)["broker_url"] == "amqp://a;amqp://b"


@pytest.mark.parametrize(
    "url",
    [
        "unix://u:p%40@/run/a%20b%3B%25/redis.sock?db=3",
        "unix:///run/a%20b%3B%25/redis.sock?db=3&username=u&password=p%40",
        "redis+socket://u:p%40@/run/a%20b%3B%25/redis.sock?virtual_host=3",
    ],
)
def test_a_socket_url_is_converted_for_each_driver(url: str) -> None:
    server = server_of(url)
    assert (server.path, server.hosts) == ("/run/a b;%/redis.sock", ())
    assert server.redis_url == "unix://u:p%40@/run/a%20b%3B%25/redis.sock?db=3"
    config = config_of(url)
    spelled = "redis+socket://u:p%40@/run/a%20b%3B%25/redis.sock?virtual_host=3"
    assert config["broker_url"] == config["result_backend"] == spelled
    assert "visibility_timeout" in config["broker_transport_options"]
    assert {queue.name for queue in config["task_queues"]} >= {"imports", "imports.admit"}


def test_what_redis_py_reads_in_a_query_reaches_kombu_as_well() -> None:
    config = config_of("redis://a/1?db=2&username=u&password=p%40")
    assert config["broker_url"] == config["result_backend"] == "redis://u:p%40@a:6379/2"


def test_a_cluster_has_several_nodes_and_one_login() -> None:
    server = server_of("rediss+cluster://u:p%40@a:7000;rediss+cluster://b?ssl_check_hostname=false")
    assert server.is_cluster
    assert server.hosts == (("a", 7000), ("b", 6379))
    assert server.login == {"username": "u", "password": "p@"}
    assert server.tls_arguments == {
        "ssl": True,
        "ssl_check_hostname": False,
        "ssl_cert_reqs": "required",
    }


@pytest.mark.parametrize("name", ["IMPORTS_BROKER_URL", "IMPORTS_RESULT_BACKEND"])
def test_celery_is_given_no_cluster(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "redis+cluster://a")
    with pytest.raises(SettingsError, match=f"{name}: must not be a cluster"):
        load_settings()
