"""Logs: one line of JSON for each event, without secrets."""

import asyncio
import gc
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import pytest
import structlog
from celery import Celery

from config.logging import configure_logging, mask_secrets
from config.settings import Settings
from config.text import MASK, mask_text

PASSWORD = "hunter2"
URL = f"redis://user:{PASSWORD}@store:6379/0"


@pytest.fixture
def _kept_logging() -> Iterator[None]:
    """Restore the logging of other tests."""
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    levels = [logger.level for logger in loggers]
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


def configured(**settings: str) -> StringIO:
    """Configure logging; return what is written to standard error."""
    stream = StringIO()
    with redirect_stderr(stream):
        configure_logging(Settings.model_validate(settings))
    return stream


LogLine = Callable[[], dict[str, Any]]


@pytest.fixture
def log_line(_kept_logging: None) -> LogLine:
    """Configure JSON logs; return a function that returns the only line written."""
    stderr = configured(log_format="json", log_level="INFO")

    def line() -> dict[str, Any]:
        (text,) = stderr.getvalue().splitlines()
        members = json.loads(text)
        assert isinstance(members, dict)
        return members

    return line


@pytest.mark.parametrize(
    "name",
    [
        *("secret", "aws_secret_access_key", "sessionToken", "x-amz-security-token"),
        *("password", "PASSWD", "Authorization", "credentials", "signature"),
    ],
)
def test_a_value_with_a_secret_name_is_masked(name: str) -> None:
    assert mask_secrets(None, "info", {"event": "e", name: PASSWORD}) == {"event": "e", name: MASK}


@pytest.mark.parametrize("value", [PASSWORD.encode(), [PASSWORD], {"value": PASSWORD}, 1234])
def test_a_secret_that_is_not_text_is_masked_too(value: object) -> None:
    assert mask_secrets(None, "info", {"event": "e", "password": value})["password"] == MASK


@pytest.mark.parametrize("name", ["import_id", "target", "lane", "attempts", "job_id"])
def test_a_value_with_an_ordinary_name_is_kept(name: str) -> None:
    assert mask_secrets(None, "info", {name: "acme"}) == {name: "acme"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (URL, "redis://user:***@store:6379/0"),
        ("redis://:p@store", "redis://:***@store"),
        ("to amqp://g:p@a// and amqps://h:q@b", "to amqp://g:***@a// and amqps://h:***@b"),
        ("rediss://u:p%40s!$&*@store", "rediss://u:***@store"),
        ("redis://u:p@ss@store", "redis://u:***@store"),
        ("sentinel://:p@a;sentinel://:q@b/0", "sentinel://:***@a;sentinel://:***@b/0"),
        ("a?sentinel_password=p@ss&ssl=true", "a?sentinel_password=***&ssl=true"),
        ("key AKIAIOSFODNN7EXAMPLE used", "key AKIA*** used"),
        ("ASIAIOSFODNN7EXAMPLE", "ASIA***"),
        ("aws_secret_access_key = wJalr/K7+M", "aws_secret_access_key = ***"),
        ("[AWS_SECRET_ACCESS_KEY='wJ K7']", "[AWS_SECRET_ACCESS_KEY=***]"),
        ("got {'SecretAccessKey': 'wJ/K7+', 'n': 1}", "got {'SecretAccessKey': '***', 'n': 1}"),
        ('{"SessionToken": "abc/+="}', '{"SessionToken": "***"}'),
        (r'"{\"SecretAccessKey\": \"wJ\"}"', r'"{\"SecretAccessKey\": \"***\"}"'),
        ("{'password': 'hunter2'}", "{'password': '***'}"),
        ("token IQoJb3JpZ2luX2VjEJr//////////wEaCXVz is old", "token IQoJ*** is old"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=c", "Authorization: ***"),
        ("{'Authorization': 'Basic abc', 'a': 1}", "{'Authorization': '***', 'a': 1}"),
        ("{'password': 'it\"s'}", "{'password': '***'}"),
        ("{'SessionToken': 'cut off", "{'SessionToken': '***"),
        ("password='cut off", "password=***"),
        ("a?sentinel_password=p;s)s&ssl=true", "a?sentinel_password=***&ssl=true"),
        ("X-Amz-Security-Token: abc", "X-Amz-Security-Token: ***"),
        ("?X-Amz-Signature=abc&a=1", "?X-Amz-Signature=***&a=1"),
    ],
)
def test_secrets_within_a_text_are_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "redis://store:6379/0",
        "http://127.0.0.1:80/a@b",
        "user@host: hello",
        "AKIA",
        "12:30 d1/main",
        "The security token included in the request is invalid.",
        "Authorization header requires 'Credential' parameter.",
        "password: is not a member",
        "signature: is missing",
    ],
)
def test_a_text_without_secrets_is_kept(text: str) -> None:
    assert mask_text(text) == text


def test_an_event_is_one_json_line(log_line: LogLine) -> None:
    structlog.get_logger().info("import.started", import_id="i-1", attempts=2, target="d1/prüfung")
    line = log_line()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "import.started",
        "level": "info",
        "import_id": "i-1",
        "attempts": 2,
        "target": "d1/prüfung",
    }


def test_bound_names_are_on_every_line(log_line: LogLine) -> None:
    with structlog.contextvars.bound_contextvars(lane="acme/eu-central-1"):
        structlog.get_logger().warning("lane.paused")
    assert log_line()["lane"] == "acme/eu-central-1"


def test_a_text_of_many_lines_is_still_one_line(log_line: LogLine) -> None:
    structlog.get_logger().info("import.rejected", error="two\nlines\r\n\x00")
    assert log_line()["error"] == "two\nlines\r\n\x00"


def test_records_of_the_standard_library_are_processed_the_same_way(log_line: LogLine) -> None:
    logging.getLogger("celery.worker").warning("Connected to %s", URL)
    line = log_line()
    assert line["level"] == "warning"
    assert line["event"] == "Connected to redis://user:***@store:6379/0"


def _warn() -> None:
    with warnings.catch_warnings():
        logging.captureWarnings(True)  # as Celery does
        try:
            warnings.warn(URL, stacklevel=1)
        finally:
            logging.captureWarnings(False)


def _never_retrieve() -> None:
    async def fail() -> None:
        raise ConnectionError(URL)

    async def forget() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(forget())


def _fail_in_a_task() -> None:
    app = Celery(set_as_current=False)
    app.conf.task_always_eager = True

    @app.task(name="failing")
    def failing() -> None:
        raise ConnectionError(URL)

    failing.apply()


@pytest.mark.parametrize(
    ("cause", "level", "opening"),
    [
        (_warn, "warning", ""),
        (_never_retrieve, "error", "Task exception was never retrieved"),
        (_fail_in_a_task, "error", "Task failing["),
        (lambda: logging.getLogger("kombu").error("lost %s", URL), "error", "lost redis://user:"),
    ],
    ids=["a warning", "an exception that nobody retrieved", "a task that failed", "kombu"],
)
def test_what_libraries_report_is_one_json_line_too(
    log_line: LogLine, cause: Callable[[], None], level: str, opening: str
) -> None:
    cause()
    line = log_line()
    assert line["level"] == level
    assert line["timestamp"].endswith("Z")
    assert line["event"].startswith(opening)
    assert PASSWORD not in json.dumps(line)


@pytest.mark.parametrize("logger", [structlog.get_logger(), logging.getLogger("celery.app.trace")])
def test_a_traceback_is_on_the_line_without_its_secrets(log_line: LogLine, logger: Any) -> None:
    try:
        int(URL)
    except ValueError:
        logger.exception("store.lost")
    line = log_line()
    assert line["level"] == "error"
    assert "ValueError" in line["exception"]
    assert PASSWORD not in json.dumps(line)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(ConnectionError(URL), id="an exception"),
        pytest.param([URL], id="a list"),
        pytest.param({"broker": URL}, id="a map"),
        pytest.param({"password": PASSWORD}, id="a map with a secret name"),
        pytest.param([{"a": ({"SessionToken": PASSWORD},)}], id="a map within lists"),
        pytest.param({("a", 1): URL}, id="a map whose keys are no texts"),
        pytest.param(ValueError({"SecretAccessKey": PASSWORD}), id="an exception about a map"),
    ],
)
def test_no_secret_hides_within_a_value(log_line: LogLine, value: object) -> None:
    structlog.get_logger().info("store.lost", about=value)
    assert PASSWORD not in json.dumps(log_line())


def test_events_below_the_level_are_not_written(log_line: LogLine) -> None:
    structlog.get_logger().debug("call.answered")
    logging.getLogger("celery").debug("quiet")
    logging.getLogger("botocore.hooks").info("noise")
    logging.getLogger("aiobotocore.credentials").warning("what a helper printed")
    structlog.get_logger().info("import.started")
    assert log_line()["event"] == "import.started"


@pytest.mark.usefixtures("_kept_logging")
def test_configuring_twice_does_not_double_the_lines() -> None:
    before, after = configured(log_format="json"), configured(log_format="json")
    structlog.get_logger().info("import.started")
    assert before.getvalue() == ""
    assert len(after.getvalue().splitlines()) == 1


@pytest.mark.usefixtures("_kept_logging")
@pytest.mark.parametrize(("log_format", "opening"), [("auto", "{"), ("console", "2")])
def test_json_is_written_without_a_terminal(log_format: str, opening: str) -> None:
    stderr = configured(log_format=log_format)
    structlog.get_logger().info("import.started", password=PASSWORD)
    text = stderr.getvalue()
    assert text.startswith(opening)
    assert "import.started" in text
    assert PASSWORD not in text


@pytest.mark.usefixtures("_kept_logging")
def test_logged_control_characters_do_not_reach_a_terminal() -> None:
    stderr = configured(log_format="console")
    structlog.get_logger().warning("import.failed", error="\x1b]0;taken\x07", name="\x9b 2J")
    logging.getLogger("celery").warning("Received task: %s", "\x1b[2J\x9b")
    text = stderr.getvalue()
    assert r"error=\x1b]0;taken\x07" in text
    assert r"Received task: \x1b[2J\x9b" in text
    assert not any(raw in text for raw in ("\x1b]", "\x1b[2J", "\x07", "\x9b"))
