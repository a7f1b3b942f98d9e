"""Where the client of a queue sends its calls."""

import pytest

from worker.operations.services import endpoint_of, region_of


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_SQS", raising=False)


@pytest.mark.parametrize(
    ("host", "region", "is_endpoint"),
    [
        ("sqs.eu-west-1.amazonaws.com", "eu-west-1", False),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1", False),
        ("sqs-fips.us-east-1.amazonaws.com", "us-east-1", False),
        ("sqs.eu-west-1.api.aws", "eu-west-1", False),
        ("eu-west-1.queue.amazonaws.com", "eu-west-1", False),
        ("queue.amazonaws.com", "", False),
        ("vpce-0a1b-c2d3.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1", True),
        ("sqs.eu-west-1.localhost.localstack.cloud:4566", "eu-west-1", True),
        ("127.0.0.1:9324", "", True),
        ("[::1]:9324", "", True),
    ],
)
def test_the_url_of_a_queue_names_region_and_endpoint(
    host: str, region: str, *, is_endpoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://{host}/123456789012/q"
    assert region_of(url) == region
    assert endpoint_of(url) == (f"https://{host}" if is_endpoint else None)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    assert endpoint_of(url) is None


@pytest.mark.parametrize(
    ("place", "region"),
    [("arn:aws:sns:eu-west-1:123456789012:t.fifo", "eu-west-1"), ("default", ""), ("arn:aws", "")],
)
def test_an_arn_names_a_region_and_no_endpoint(place: str, region: str) -> None:
    assert (region_of(place), endpoint_of(place)) == (region, None)
