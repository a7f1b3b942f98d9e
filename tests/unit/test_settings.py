"""Settings: each variable is read, and a bad one is named."""

import os
from pathlib import Path
from typing import Any

import pytest

from config.settings import REGION, LaneSettings, Settings, SettingsError, load_settings
from worker.domain.requests import REGION_PATTERN

DEFAULTS: dict[str, Any] = {
    "redis_url": "redis://127.0.0.1:6379/0",
    "broker_url": "",
    "result_backend": "",
    "start_rate": None,
    "start_burst": None,
    "poll_rate": None,
    "poll_burst": None,
    "lanes_file": None,
    "poll_min_seconds": 3,
    "poll_max_seconds": 60,
    "lease_seconds": 60,
    "max_attempts": 5,
    "stuck_seconds": 1800,
    "deadline_seconds": 21600,
    "settle_seconds": 10,
    "missing_grace_seconds": 60,
    "success_statuses": {"COMPLETED"},
    "failure_statuses": {"FAILED"},
    "accounts": frozenset(),
    "retention_seconds": 604800,
    "events_max_length": 100_000,
    "event_source": "amplify-import-worker",
    "sqs_requests_url": "",
    "sinks_file": None,
    "webhook_url": "",
    "webhook_secret": None,
    "webhook_allow_private": False,
    "eventbridge_bus": "",
    "sns_topic_arn": "",
    "sqs_events_url": "",
    "max_in_flight": 100,
    "worker_pool": "threads",
    "worker_concurrency": 8,
    "log_format": "auto",
    "log_level": "INFO",
    "metrics_port": 0,
    "metrics_host": "127.0.0.1",
    "metrics_store": False,
}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this project's settings from the environment."""
    for name in os.environ:
        if name.upper().startswith("IMPORTS_"):
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_a_lanes_file_is_found_despite_a_stray_blank(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lanes.toml").write_text("[defaults]\nmax_running = 7\n")
    settings = load(monkeypatch, IMPORTS_LANES_FILE=f"{tmp_path}/lanes.toml\n")
    assert settings.lane_defaults.max_running == 7


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_an_invalid_region_stops_the_start(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    errors = refusal(monkeypatch, **{variable: "us_east_1"})
    assert errors == f'{variable}: must look like eu-central-1, got "us_east_1"'
    load(monkeypatch, **{variable: " us-east-1\n"})
    load(monkeypatch, **{variable: " "})


def test_a_list_without_an_account_is_not_a_list_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = refusal(monkeypatch, IMPORTS_ACCOUNTS=" , ")
    assert errors == "IMPORTS_ACCOUNTS: lists no account; unset it to allow all"


@pytest.mark.parametrize(
    "url", ["requests", "arn:aws:sqs:eu-west-1:1:q", "https://a.example", "https://u:p@a.example/q"]
)
def test_what_is_no_url_of_a_queue_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    error = refusal(monkeypatch, IMPORTS_SQS_REQUESTS_URL=url)
    assert error.startswith("IMPORTS_SQS_REQUESTS_URL: must look like https://sqs.eu-central-1.")
    assert url not in error


def test_settings_and_requests_accept_the_same_regions() -> None:
    assert f"^{REGION.pattern}$" == REGION_PATTERN.pattern


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **variables)
    return str(caught.value)


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items(), ids=DEFAULTS)
def test_every_setting_has_its_default(name: str, value: object) -> None:
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("IMPORTS_REDIS_URL", " redis://store:6380/2\n", "redis://store:6380/2"),
        ("IMPORTS_BROKER_URL", "  ", ""),
        ("IMPORTS_LANES_FILE", " ", None),
        ("IMPORTS_MAX_ATTEMPTS", " 9\n", 9),
        ("IMPORTS_WORKER_POOL", "solo ", "solo"),
        ("IMPORTS_ASSUME_FINISHED_LISTED", "false ", False),
        ("IMPORTS_REDIS_URL", "redis://store:6380/2", "redis://store:6380/2"),
        ("IMPORTS_BROKER_URL", "amqp://broker", "amqp://broker"),
        ("IMPORTS_RESULT_BACKEND", "redis://results", "redis://results"),
        ("IMPORTS_START_RATE", "2.5", 2.5),
        ("IMPORTS_START_BURST", "7", 7),
        ("IMPORTS_POLL_RATE", "12", 12),
        ("IMPORTS_POLL_BURST", "20", 20),
        ("IMPORTS_POLL_MIN_SECONDS", "0.5", 0.5),
        ("IMPORTS_POLL_MAX_SECONDS", "600", 600),
        ("IMPORTS_LEASE_SECONDS", "15", 15),
        ("IMPORTS_EVENT_SOURCE", "https://a.example/imports", "https://a.example/imports"),
        ("IMPORTS_SQS_REQUESTS_URL", "http://[::1]:9324/0/q.fifo\n", "http://[::1]:9324/0/q.fifo"),
        ("IMPORTS_MAX_ATTEMPTS", "9", 9),
        ("IMPORTS_STUCK_SECONDS", "60", 60),
        ("IMPORTS_DEADLINE_SECONDS", "90", 90),
        ("IMPORTS_SETTLE_SECONDS", "1", 1),
        ("IMPORTS_MISSING_GRACE_SECONDS", "5", 5),
        ("IMPORTS_SUCCESS_STATUSES", " done, Completed ,", {"DONE", "COMPLETED"}),
        ("IMPORTS_FAILURE_STATUSES", "broken", {"BROKEN"}),
        ("IMPORTS_ACCOUNTS", " acme, Customer-* ,", {"acme", "Customer-*"}),
        ("IMPORTS_RETENTION_SECONDS", "3600", 3600),
        ("IMPORTS_EVENTS_MAX_LENGTH", "500", 500),
        ("IMPORTS_MAX_IN_FLIGHT", "10", 10),
        ("IMPORTS_WORKER_POOL", "solo", "solo"),
        ("IMPORTS_WORKER_CONCURRENCY", "2", 2),
        ("IMPORTS_LOG_FORMAT", "json", "json"),
        ("IMPORTS_LOG_LEVEL", "DEBUG", "DEBUG"),
        ("IMPORTS_METRICS_PORT", "9464", 9464),
        ("IMPORTS_METRICS_HOST", "0.0.0.0", "0.0.0.0"),
        ("IMPORTS_METRICS_STORE", "true", True),
    ],
)
def test_a_setting_is_read_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
) -> None:
    settings = load(monkeypatch, **{variable: text})
    assert getattr(settings, variable.removeprefix("IMPORTS_").lower()) == value


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings = load(monkeypatch, **{f"IMPORTS_{name.upper()}": ""})
    assert getattr(settings, name) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("IMPORTS_START_RATE", "fast"),
        ("IMPORTS_START_RATE", "0"),
        ("IMPORTS_START_RATE", "-1"),
        ("IMPORTS_START_RATE", "nan"),
        ("IMPORTS_POLL_RATE", "inf"),
        ("IMPORTS_START_BURST", "0.5"),
        ("IMPORTS_POLL_BURST", "none"),
        ("IMPORTS_POLL_MIN_SECONDS", "0"),
        ("IMPORTS_POLL_MAX_SECONDS", "nan"),
        ("IMPORTS_LEASE_SECONDS", "1"),
        ("IMPORTS_MAX_ATTEMPTS", "0"),
        ("IMPORTS_MAX_ATTEMPTS", "2.5"),
        ("IMPORTS_STUCK_SECONDS", "-5"),
        ("IMPORTS_DEADLINE_SECONDS", "6 h"),
        ("IMPORTS_SUCCESS_STATUSES", " , "),
        ("IMPORTS_FAILURE_STATUSES", ","),
        ("IMPORTS_RETENTION_SECONDS", "1"),
        ("IMPORTS_EVENTS_MAX_LENGTH", "0"),
        ("IMPORTS_EVENT_SOURCE", "a b"),
        ("IMPORTS_EVENT_SOURCE", "aws.imports"),
        ("IMPORTS_EVENT_SOURCE", "x" * 257),
        ("IMPORTS_WEBHOOK_ALLOW_PRIVATE", "perhaps"),
        ("IMPORTS_MAX_IN_FLIGHT", "0"),
        ("IMPORTS_WORKER_POOL", "gevent"),
        ("IMPORTS_WORKER_CONCURRENCY", "many"),
        ("IMPORTS_LOG_FORMAT", "xml"),
        ("IMPORTS_LOG_LEVEL", "LOUD"),
        ("IMPORTS_METRICS_PORT", "65536"),
        ("IMPORTS_METRICS_PORT", "-1"),
        ("IMPORTS_METRICS_STORE", "perhaps"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    assert variable in refusal(monkeypatch, **{variable: text})


def test_all_bad_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, IMPORTS_START_RATE="x", IMPORTS_MAX_ATTEMPTS="y")
    assert "IMPORTS_START_RATE" in message
    assert "IMPORTS_MAX_ATTEMPTS" in message


def test_the_shortest_interval_is_not_longer_than_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = refusal(monkeypatch, IMPORTS_POLL_MIN_SECONDS="61")
    assert "IMPORTS_POLL_MIN_SECONDS" in message
    assert "IMPORTS_POLL_MAX_SECONDS" in message


def test_no_status_means_both_success_and_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, IMPORTS_SUCCESS_STATUSES="done, failed")
    assert "FAILED" in message
    assert "IMPORTS_SUCCESS_STATUSES" in message
    assert "IMPORTS_FAILURE_STATUSES" in message


def test_broker_and_results_are_in_the_store_unless_configured_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(monkeypatch, IMPORTS_REDIS_URL="redis://store")
    assert settings.celery_broker_url == settings.celery_result_backend == "redis://store"
    settings = load(monkeypatch, IMPORTS_BROKER_URL="amqp://b", IMPORTS_RESULT_BACKEND="redis://r")
    assert settings.celery_broker_url == "amqp://b"
    assert settings.celery_result_backend == "redis://r"


@pytest.mark.parametrize(("lease", "seconds"), [("2", 1), ("20", 10), ("60", 30), ("3600", 30)])
def test_a_claim_outlives_its_call(
    monkeypatch: pytest.MonkeyPatch, lease: str, seconds: float
) -> None:
    assert load(monkeypatch, IMPORTS_LEASE_SECONDS=lease).call_timeout_seconds == seconds


@pytest.fixture
def lanes_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the lanes file in the settings; the test writes the file."""
    path = tmp_path / "lanes.toml"
    monkeypatch.setenv("IMPORTS_LANES_FILE", str(path))
    return path


def lanes_refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        _ = load_settings().lanes
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_without_a_lanes_file_no_lane_has_its_own_limits() -> None:
    assert load_settings().lanes == {}


def test_a_lanes_file_gives_each_lane_its_limits(lanes_file: Path) -> None:
    lanes_file.write_text(
        '[lanes."acme/eu-central-1"]\nstart_rate = 2\nstart_burst = 4\nmax_running = 50\n'
        '[lanes."default/us-east-1"]\npoll_rate = 0.5\npoll_burst = 1\n'
    )
    assert load_settings().lanes == {
        "acme/eu-central-1": LaneSettings(start_rate=2, start_burst=4, max_running=50),
        "default/us-east-1": LaneSettings(poll_rate=0.5, poll_burst=1),
    }


def test_lanes_without_their_own_limits_have_those_of_the_file_then_the_variables(
    lanes_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes_file.write_text("[defaults]\nstart_rate = 2\nmax_running = 9\n")
    monkeypatch.setenv("IMPORTS_START_RATE", "7")
    monkeypatch.setenv("IMPORTS_POLL_RATE", "3")
    defaults = load_settings().lane_defaults
    assert defaults == LaneSettings(start_rate=2, poll_rate=3, max_running=9)


def test_starts_and_polls_may_share_a_budget(lanes_file: Path) -> None:
    lanes_file.write_text(
        "[defaults]\nshared = true\nshared_rate = 10\n"
        '[lanes."acme/eu-central-1"]\nstart_share = 0.3\n'
        '[lanes."acme/us-east-1"]\nshared = false\n'
    )
    settings = load_settings()
    assert settings.lane_defaults == LaneSettings(shared=True, shared_rate=10)
    assert settings.lanes["acme/eu-central-1"].start_share == 0.3
    assert settings.lanes["acme/us-east-1"].shared is False


@pytest.mark.parametrize("member", ["shared_rate = 5", "shared_burst = 5", "start_share = 0.5"])
def test_a_limit_of_a_budget_that_is_not_shared_is_named(lanes_file: Path, member: str) -> None:
    lanes_file.write_text(f'[defaults]\nshared = true\n[lanes."a/b"]\nshared = false\n{member}\n')
    assert '"a/b": shared_rate, shared_burst and start_share need' in lanes_refusal(lanes_file)


def test_an_empty_lanes_file_limits_nothing(lanes_file: Path) -> None:
    lanes_file.touch()
    assert load_settings().lanes == {}


def test_a_missing_lanes_file_is_named(lanes_file: Path) -> None:
    assert "IMPORTS_LANES_FILE" in lanes_refusal(lanes_file)


def test_a_bad_lanes_file_is_reported_when_the_settings_are_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"IMPORTS_LANES_FILE .*absent\.toml"):
        load(monkeypatch, IMPORTS_LANES_FILE=str(tmp_path / "absent.toml"))


def test_a_lanes_file_that_is_not_text_is_named(lanes_file: Path) -> None:
    lanes_file.write_bytes(b"\xff\xfe\x00")
    lanes_refusal(lanes_file)


@pytest.mark.parametrize("text", ["[lanes", "start_rate = 1", "lanes = 5", "[lane.x]\n"])
def test_a_file_that_holds_no_lanes_is_named(lanes_file: Path, text: str) -> None:
    lanes_file.write_text(text)
    lanes_refusal(lanes_file)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("start_rate", "0"),
        ("start_rate", "'fast'"),
        ("start_burst", "0"),
        ("poll_rate", "nan"),
        ("poll_burst", "inf"),
        ("max_running", "0"),
        ("max_running", "2.5"),
        ("shared", "'perhaps'"),
        ("start_share", "1"),
        ("start_raet", "1"),
    ],
)
def test_a_bad_member_of_a_lane_is_named_as_it_is_written(
    lanes_file: Path, member: str, value: str
) -> None:
    lanes_file.write_text(f'[lanes."acme/eu-central-1"]\n{member} = {value}\n')
    assert member in lanes_refusal(lanes_file)


@pytest.mark.parametrize("lane", ["start_rate = 0", "start_raet = 1"])
def test_the_lane_that_holds_a_bad_member_is_named(lanes_file: Path, lane: str) -> None:
    lanes_file.write_text(
        f'[lanes."default/us-east-1"]\nstart_rate = 1\n[lanes."acme/eu-central-1"]\n{lane}\n'
    )
    assert "acme/eu-central-1" in lanes_refusal(lanes_file)


def test_a_lane_that_is_not_a_table_is_named(lanes_file: Path) -> None:
    lanes_file.write_text('[lanes]\n"acme/eu-central-1" = 5\n')
    assert "acme/eu-central-1" in lanes_refusal(lanes_file)
