"""The sinks file: each member is read, and a bad one is named, without a secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, SettingsError
from tests.support.receiving import SECRET
from tests.support.relaying import event
from worker.operations.services import open_client
from worker.relay.event import Event
from worker.relay.sinksfile import (
    EventBridgeSettings,
    SnsSettings,
    SqsSettings,
    WebhookSettings,
    read_sinks,
)

URL = "https://hooks.example.com/events?token=hidden"
GOOD = f"""
[sinks.audit]
kind = "webhook"
url = "{URL}"
secrets = ["env:SECRET"]
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)


def read(path: Path, text: str) -> dict[str, Any]:
    path.write_text(text)
    return dict(read_sinks(Settings(sinks_file=path)))


def refusal(path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as refused:
        read(path, text)
    assert str(path) in str(refused.value)
    assert "hidden" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sinks.toml"


def test_without_a_file_there_are_no_sinks() -> None:
    assert read_sinks(Settings()) == {}


def test_a_webhook_and_its_defaults(path: Path) -> None:
    sink = read(path, GOOD)["audit"]
    assert isinstance(sink, WebhookSettings)
    assert len(sink.keys[0]) == 24
    assert sink.place == "https://hooks.example.com"
    assert (sink.start, sink.concurrency, sink.max_attempts) == ("oldest", 16, 10)
    assert sink.wants(_event("import.failed"))


def test_a_secret_may_be_in_a_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    text = GOOD.replace("env:SECRET", f"file:{tmp_path}/secret")
    assert len(read(path, text)["audit"].keys[0]) == 24


@pytest.mark.parametrize(
    ("table", "region"),
    [
        ('kind = "sns"\ntopic_arn = "arn:aws:sns:eu-west-1:123456789012:t.fifo"', "eu-west-1"),
        ('kind = "sqs"\nqueue_url = "https://sqs.eu-west-1.amazonaws.com/1/q"', "eu-west-1"),
        ('kind = "sqs"\nqueue_url = "http://127.0.0.1:9/1/q"\nregion = "us-east-1"', "us-east-1"),
        ('kind = "sqs"\nqueue_url = "http://127.0.0.1:9/1/q"', "eu-north-1"),
        ('kind = "eventbridge"\nbus = "default"', "eu-north-1"),
        ('kind = "eventbridge"\nbus = "arn:aws:events:eu-west-1:1:event-bus/b"', "eu-west-1"),
    ],
)
async def test_the_region_of_a_sink_at_aws(
    path: Path, table: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    sink = read(path, f"[sinks.a]\n{table}")["a"]
    opened = open_client(
        "sqs", sink.place, region=sink.region, timeout_seconds=1, max_connections=1
    )
    async with opened as client:
        assert client.meta.region_name == region


def test_variables_configure_a_sink_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WEBHOOK_URL", URL),
        ("WEBHOOK_SECRET", SECRET),
        ("EVENTBRIDGE_BUS", "default"),
        ("SNS_TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:t"),
        ("SQS_EVENTS_URL", "https://sqs.eu-west-1.amazonaws.com/1/q"),
    ):
        monkeypatch.setenv(f"IMPORTS_{name}", value)
    found = read_sinks(Settings())
    kinds = {name: type(sink) for name, sink in found.items()}
    assert kinds == {
        "webhook": WebhookSettings,
        "eventbridge": EventBridgeSettings,
        "sns": SnsSettings,
        "sqs": SqsSettings,
    }
    assert SECRET not in repr(Settings())


def test_a_variable_and_the_file_may_not_name_the_same_sink(path: Path) -> None:
    path.write_text(GOOD.replace("audit", "sqs"))
    with pytest.raises(SettingsError, match="IMPORTS_SQS_EVENTS_URL: sqs: the sinks file has"):
        read_sinks(Settings(sinks_file=path, sqs_events_url="https://sqs.eu-west-1.x/1/q"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("https://", "http://"), "audit: url: must begin with https://, unless allow_http"),
        (("https://", "ftp://"), "audit: url: must begin with https:// and name a host"),
        (("https://", "https://u:hidden@"), "audit: url: must hold no user and no password"),
        (("hooks.example.com", "10.0.0.1"), "audit: url: 10.0.0.1 is not public; allow_private"),
        (("hooks.example.com", "[::1]"), "audit: url: ::1 is not public"),
        (("hooks.example.com", "localhost"), "audit: url: localhost is not public"),
        (("env:SECRET", "whsec_hidden"), 'audit: secrets: 0: must be "env:NAME" or "file:/path"'),
        (("env:SECRET", "env:ABSENT"), "audit: env:ABSENT: not set"),
        (("env:SECRET", "file:/absent"), "audit: file:/absent: No such file or directory"),
        (('"env:SECRET"', ""), "audit: secrets: Tuple should have at least 1 item"),
        (("audit", "Audit"), '"Audit" is not a name of a sink'),
        (('"webhook"', '"email"'), "audit: Input tag 'email' found using 'kind'"),
        (("url =", "uri ="), "audit: url: Field required; audit: uri: Extra inputs"),
        (("url =", 'types = ["import.won"]\nurl ='), 'audit: types: "import.won" matches no type'),
        (("url =", "max_attempts = 0\nurl ="), "audit: max_attempts: Input should be greater"),
        (("[sinks.audit]", "[sinks.audit"), "Expected"),
        (("[sinks.audit]", "[sink.audit]"), "Extra inputs are not permitted"),
    ],
)
def test_a_bad_member_is_named(path: Path, change: tuple[str, str], named: str) -> None:
    assert named in refusal(path, GOOD.replace(*change))


def test_a_malformed_secret_is_not_shown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "whsec_hidden")
    assert "audit: env:SECRET: is not whsec_" in refusal(path, GOOD)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"IMPORTS_SINKS_FILE .*absent\.toml"):
        read_sinks(Settings(sinks_file=tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("line", "kind", "batch", "wanted"),
    [
        ('types = ["import.*"]', "import.failed", "b", True),
        ('types = ["import.*"]', "batch.completed", "b", False),
        ('batches = ["wave-*"]', "import.failed", "wave-1", True),
        ('batches = ["wave-*"]', "import.failed", "other", False),
        ('batches = ["*"]', "lane.paused", None, False),
        ('types = ["import.failed"]\nbatches = ["b"]', "import.failed", "b", True),
    ],
)
def test_filters(path: Path, line: str, kind: str, batch: str | None, wanted: bool) -> None:  # noqa: FBT001 - a table
    assert read(path, f"{GOOD}{line}\n")["audit"].wants(_event(kind, batch)) is wanted


def _event(kind: str, batch: str | None = None) -> Event:
    return Event.parse(json.dumps(event("d1/prod", 0, kind, batchId=batch)))
