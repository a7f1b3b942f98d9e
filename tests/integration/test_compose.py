"""The Compose stack, tested without a container engine: the file is valid, and each service's
command and health check run natively as the file defines them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support import BIN, PROJECT, Sandbox, environment_for, free_port, wait_until
from tests.support.services import running

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
SERVICES: dict[str, Any] = COMPOSE["services"]


def healthy(service: str, cwd: Path, **replace: str) -> bool:
    """Run a service's health check; `replace` maps what differs natively."""
    _, *command = SERVICES[service]["healthcheck"]["test"]
    for inside, outside in replace.items():
        command = [word.replace(inside, outside) for word in command]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, timeout=90, check=False
    )
    return done.returncode == 0


def test_the_compose_file_is_valid() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("NO docker-compose here, the Compose file is not validated")
    profiles = [
        "--profile",
        "sandbox",
        "--profile",
        "relay",
        "--profile",
        "http",
        "--profile",
        "observability",
    ]
    command = [program, "--file", "docker-compose.yml", *profiles, "config", "--quiet"]
    environment = {**os.environ, "FLOWER_BASIC_AUTH": "user:password"}
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_service_restarts_is_checked_and_only_reached_from_this_host() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert ":?" in SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"], "a password is required"


def test_redis_is_durable_and_never_evicts(tmp_path: Path) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("NO redis-server here, its configuration is not tried")
    port = free_port()
    configuration = str(PROJECT / "config" / "redis.conf")
    command = [
        word.replace("/etc/redis/redis.conf", configuration)
        for word in SERVICES["redis"]["command"]
    ]
    with (
        running([*command, "--port", port, "--bind", "127.0.0.1"], {}, tmp_path),
        Redis(port=int(port), decode_responses=True) as redis,
    ):
        wait_until(lambda: _pings(redis), "Redis answers")
        assert redis.config_get("appendonly") == {"appendonly": "yes"}
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_worker_runs_and_its_health_check_works(
    sandbox: Sandbox, store_url: str, tmp_path: Path
) -> None:
    port = free_port()
    environment = environment_for(sandbox, store_url, IMPORTS_METRICS_PORT=port)
    inside = SERVICES["worker"]["environment"]["IMPORTS_METRICS_PORT"]
    assert not healthy("worker", tmp_path, **{inside: port}), "no worker runs yet"
    with running(SERVICES["worker"]["command"], environment, tmp_path):
        wait_until(lambda: healthy("worker", tmp_path, **{inside: port}), "it is healthy", 60)


def test_flower_asks_for_the_password(store_url: str, tmp_path: Path) -> None:
    port = free_port()
    command = [word.replace("5555", port) for word in SERVICES["flower"]["command"]]
    environment = {"IMPORTS_REDIS_URL": store_url, "FLOWER_BASIC_AUTH": "user:password"}
    with running(command, environment, tmp_path):
        wait_until(lambda: healthy("flower", tmp_path, **{"5555": port}), "Flower is healthy")
        assert _status(f"http://127.0.0.1:{port}/tasks") == 401


def test_the_sandbox_runs(tmp_path: Path) -> None:
    port = free_port()
    command = [word.replace("4567", port) for word in SERVICES["sandbox"]["command"]]
    with running(command, {}, tmp_path):
        wait_until(lambda: healthy("sandbox", tmp_path, **{"4567": port}), "it is healthy")


def test_the_exporter_runs(store_url: str, tmp_path: Path) -> None:
    port = free_port()
    command = [word.replace("9465", port) for word in SERVICES["exporter"]["command"]]
    with running(command, {"IMPORTS_REDIS_URL": store_url}, tmp_path):
        wait_until(lambda: healthy("exporter", tmp_path, **{"9465": port}), "it is healthy")


def test_the_relay_runs_and_its_health_check_works(store_url: str, tmp_path: Path) -> None:
    inside = SERVICES["relay"]["environment"]["IMPORTS_METRICS_PORT"]
    port = free_port()
    environment = {
        "IMPORTS_REDIS_URL": store_url,
        "IMPORTS_METRICS_PORT": port,
        "IMPORTS_EVENTBRIDGE_BUS": "default",
    }
    with running(SERVICES["relay"]["command"], environment, tmp_path):
        wait_until(lambda: healthy("relay", tmp_path, **{inside: port}), "it is healthy")


def test_the_http_server_runs_and_its_health_check_works(store_url: str, tmp_path: Path) -> None:
    port = free_port()
    command = [word.replace("8080", port) for word in SERVICES["http"]["command"]]
    environment = {"IMPORTS_REDIS_URL": store_url, "IMPORTS_HTTP_TOKEN": "token"}
    with running(command, environment, tmp_path):
        wait_until(lambda: healthy("http", tmp_path, **{"8080": port}), "it is healthy")


def test_prometheus_scrapes_what_the_services_serve() -> None:
    config = yaml.safe_load((PROJECT / "config/prometheus/prometheus.yml").read_text())
    *processes, store = config["scrape_configs"]
    for name, process in zip(("worker", "relay"), processes, strict=True):
        (found,) = process["dns_sd_configs"]
        assert found["names"] == [name]
        assert str(found["port"]) == SERVICES[name]["environment"]["IMPORTS_METRICS_PORT"]
    (target,) = store["static_configs"][0]["targets"]
    assert target == f"exporter:{SERVICES['exporter']['command'][5]}"


def test_nobody_can_log_in_to_grafana_as_admin() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_the_image_copies_what_exists_and_does_not_run_as_root() -> None:
    lines = DOCKERFILE.splitlines()
    copied = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert copied
    assert all((PROJECT / name).exists() for name in copied)
    assert "USER worker" in lines
    assert any("--require-hashes" in line for line in lines)


def test_the_image_judges_a_worker_that_serves_its_health(
    sandbox: Sandbox, store_url: str, tmp_path: Path
) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.*)$", DOCKERFILE, re.MULTILINE)
    _, *arguments = json.loads(check)
    port = free_port()

    def status(**environment: str) -> int:
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, check=False
        )
        return done.returncode

    assert status() == status(IMPORTS_METRICS_PORT="") == 0
    assert status(IMPORTS_METRICS_PORT=port) != 0
    environment = environment_for(sandbox, store_url, IMPORTS_METRICS_PORT=port)
    with running(["celery", "-A", "worker", "worker"], environment, tmp_path):
        wait_until(lambda: status(IMPORTS_METRICS_PORT=port) == 0, "it is healthy", 60)


def _pings(redis: Any) -> bool:
    try:
        return bool(redis.ping())
    except RedisConnectionError:
        return False


def _status(url: str) -> int:
    try:
        with urlopen(url, timeout=10) as answer:  # noqa: S310 - a local http address
            return int(answer.status)
    except HTTPError as error:
        return error.code
