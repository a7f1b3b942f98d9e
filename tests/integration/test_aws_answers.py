"""A claimed call is one HTTP request, and its answer decides, whatever the SDK's settings are."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

from tests.support import ACCESS_KEY, free_port
from tests.support.servers import Certificates
from tests.wire import WireServer, answer
from worker.domain.answers import Answer, Kind
from worker.operations.aws import Aws
from worker.operations.http import CallFailedError, Response, read

WHERE = {"AppId": "d1", "BackendEnvironmentName": "staging"}
POOL = {"UserPoolId": "us-east-1_A", "WebClientId": "w", "NativeClientId": "n"}
TIMEOUT_SECONDS = 10.0


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", server.url)
        yield server


@pytest.fixture
async def aws() -> AsyncIterator[Aws]:
    aws = Aws(TIMEOUT_SECONDS, max_connections=10)
    yield aws
    await aws.close()


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that refuses connections: it is bound, so that no other process can listen on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def start(aws: Aws, account: str = "default", region: str = "us-east-1") -> Response:
    return await aws.call(account, region, "import_backend_auth", WHERE | POOL)


async def outcome(aws: Aws) -> Kind:
    try:
        return read(await start(aws)).kind
    except CallFailedError as failed:
        return failed.answer.kind


async def failure(aws: Aws, account: str = "default", region: str = "us-east-1") -> Answer:
    with pytest.raises(CallFailedError) as failed:
        await start(aws, account, region)
    return failed.value.answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_not_followed(
    api: WireServer, aws: Aws, status: int
) -> None:
    async with WireServer() as elsewhere:
        for location in (f"{elsewhere.url}/there", f"{api.url}/here", "/here"):
            api.requests.clear()
            api.reply = answer(status, location=location)
            response = await start(aws)
            assert response.status == status
            assert read(response).kind is Kind.UNKNOWN
            assert len(api.requests) == 1
        assert elsewhere.requests == []


async def test_a_role_is_not_asked_for_where_a_redirect_points(
    api: WireServer, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        "[profile acme]\nrole_arn = arn:aws:iam::123456789012:role/importer\n"
        "credential_source = Environment\n"
    )
    async with WireServer() as elsewhere, WireServer() as sts:
        sts.reply = answer(307, location=elsewhere.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        assert (await failure(aws, "acme")).kind is Kind.CREDENTIALS
        assert len(sts.requests) == 1
        assert elsewhere.requests == api.requests == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.BAD_REQUEST),
        (403, Kind.CREDENTIALS),
        (404, Kind.NOT_FOUND),
        (429, Kind.THROTTLED),
        (504, Kind.UNKNOWN),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"Forbidden"', id="a text"),
        pytest.param(b"5", id="a number"),
        pytest.param(b'{"code": 5, "message": {}}', id="members of other types"),
        pytest.param(b'{"__type": null, "Error": []}', id="no names"),
        pytest.param(b'{"jobs": {"jobId": "x"}}', id="jobs that are no list"),
        pytest.param(b'{"a":' * 100_000, id="nested without end"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b'{"mess', id="broken off"),
    ],
)
async def test_a_status_decides_whatever_the_sdk_makes_of_the_body(
    api: WireServer, aws: Aws, status: int, kind: Kind, body: bytes
) -> None:
    api.reply = answer(status, body)
    assert read(await start(aws)).kind is kind


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"5", b'{"jobs": {}}', b"\xff", b'{"a'])
async def test_a_success_that_makes_no_sense_is_an_answer_too(
    api: WireServer, aws: Aws, body: bytes
) -> None:
    api.reply = answer(200, body)
    response = await aws.call("default", "us-east-1", "list_backend_jobs", WHERE)
    assert (response.status, response.body) == (200, body)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.UNKNOWN),
        (400, Kind.UNKNOWN),  # the body might have said that a job is pending
        (403, Kind.CREDENTIALS),
        (404, Kind.UNKNOWN),
        (429, Kind.THROTTLED),
        (503, Kind.UNKNOWN),
    ],
)
async def test_an_answer_whose_body_never_arrives_is_known_by_its_status(
    api: WireServer, aws: Aws, status: int, kind: Kind
) -> None:
    api.hang_up = True
    api.reply = answer(status, b'{"message"', content_length="500", retry_after="7")
    response = await start(aws)
    assert response.status == status
    assert read(response).kind is kind
    assert response.headers["retry-after"] == "7"


async def test_headers_that_are_not_text_do_not_hide_the_status(api: WireServer, aws: Aws) -> None:
    api.reply = answer(429).replace(b"\r\n\r\n", b"\r\nx-odd: \xff\xfe\r\n\r\n", 1)
    assert read(await start(aws)).kind is Kind.THROTTLED


async def test_a_poll_is_one_request_when_its_connection_is_reset(
    api: WireServer, aws: Aws
) -> None:
    polled = ("default", "us-east-1", "get_backend_job", {**WHERE, "JobId": "j"})
    await aws.call(*polled)  # with an open connection, the SDK might repeat the poll
    api.requests.clear()
    api.reply, api.hang_up = b"", True
    with pytest.raises(CallFailedError) as failed:
        await aws.call(*polled)
    assert failed.value.answer.kind is Kind.UNKNOWN
    assert len(api.requests) == 1


CALLS = 20
VALUES = ("adaptive", "true", "-1")


@pytest.mark.parametrize(
    "variable",
    sorted(
        {
            name
            for _, names, _, _ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values()
            for name in (names if isinstance(names, list) else [names])
            if name
        }
        | {"AWS_ENDPOINT_URL", "AWS_MAX_ATTEMPTS", "BOTO_EXPERIMENTAL__ADD_PROXY_HOST_HEADER"}
    ),
)
async def test_no_variable_of_the_sdk_turns_a_call_into_several(
    api: WireServer, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.reply = answer(503)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")  # no request may reach AWS
    for value in VALUES:
        monkeypatch.setenv(variable, value)
        api.requests.clear()
        aws = Aws(TIMEOUT_SECONDS, max_connections=1)
        await aws.warm_up()
        kind, made = await outcome(aws), len(api.requests)
        await aws.close()
        assert (kind, made) in {(Kind.UNKNOWN, 1), (Kind.CREDENTIALS, 0)}, value


@pytest.mark.parametrize(
    "setting",
    [
        "retry_mode = adaptive",
        "retry_mode = sometimes",
        "max_attempts = many",
        "max_attempts = 9",
        "defaults_mode = auto",
        "defaults_mode = often",
        "endpoint_discovery_enabled = true",
        "request_min_compression_size_bytes = 1",
        "request_min_compression_size_bytes = none",
        "request_checksum_calculation = never",
        "account_id_endpoint_mode = required",
        "sigv4a_signing_region_set = *",
        "auth_scheme_preference = noAuth",
        "tcp_keepalive = true",
        "parameter_validation = false",
    ],
)
async def test_no_setting_of_a_profile_turns_a_call_into_several(
    api: WireServer, aws: Aws, setting: str, tmp_path: Path
) -> None:
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = x\n"
    (tmp_path / "config").write_text(f"[profile acme]\n{keys}{setting}\n")
    api.reply = answer(429, b'{"code": "ThrottlingException"}')
    began = time.monotonic()
    for _ in range(CALLS):
        assert read(await start(aws, "acme")).kind is Kind.THROTTLED
    assert time.monotonic() - began < 5  # the SDK's own limiter would take half a minute
    assert len(api.requests) == CALLS
    assert api.requests[-1].access_key == ACCESS_KEY


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"AWS_ENDPOINT_URL_AMPLIFYBACKEND": "http://127.0.0.1:{free}"}, Kind.UNREACHABLE),
        ({"AWS_ENDPOINT_URL_AMPLIFYBACKEND": "http://no-such-host.invalid"}, Kind.UNREACHABLE),
        ({"HTTP_PROXY": "http://127.0.0.1:{free}", "NO_PROXY": ""}, Kind.CREDENTIALS),
        ({"HTTP_PROXY": "nowhere at all", "NO_PROXY": ""}, Kind.UNREACHABLE),
        ({"AWS_ENDPOINT_URL_AMPLIFYBACKEND": "127.0.0.1:4567"}, Kind.CREDENTIALS),
        ({"AWS_ENDPOINT_URL_AMPLIFYBACKEND": "http://a_b:4567"}, Kind.CREDENTIALS),
        ({"AWS_ENDPOINT_URL_AMPLIFYBACKEND": "ftp://127.0.0.1"}, Kind.CREDENTIALS),
        ({"AWS_ENDPOINT_URL_AMPLIFYBACKEND": "https://127.0.0.1:{tls}"}, Kind.CREDENTIALS),
        ({"AWS_CA_BUNDLE": "/nowhere.pem"}, Kind.CREDENTIALS),
        ({"AWS_ACCESS_KEY_ID": "AKIA\nBROKEN"}, Kind.CREDENTIALS),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else value,
)
async def test_a_call_that_was_not_sent_has_no_unknown_outcome(
    api: WireServer,
    aws: Aws,
    certificates: Certificates,
    refusing_port: int,
    variables: dict[str, str],
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with WireServer(context=served_by(certificates)) as tls:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(free=refusing_port, tls=tls.port))
        if "AWS_CA_BUNDLE" in variables:
            monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", tls.url)
        answered = await failure(aws)
        assert answered.kind is kind, answered.error
        assert answered.error
        assert api.requests == tls.requests == []


@pytest.mark.parametrize("region", ["us east 1", "us_east_1", "", "-", "x" * 300, "us-east-1/../x"])
async def test_a_region_that_the_sdk_refuses_causes_no_unknown_outcome(
    aws: Aws, region: str
) -> None:
    assert (await failure(aws, region=region)).kind in {Kind.CREDENTIALS, Kind.UNREACHABLE}


async def test_a_call_that_was_sent_and_not_answered_has_an_unknown_outcome(
    api: WireServer, aws: Aws
) -> None:
    api.reply, api.hang_up = b"", True
    assert (await failure(aws)).kind is Kind.UNKNOWN
    assert len(api.requests) == 1


async def test_the_server_behind_a_proxy_is_verified(
    aws: Aws, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with WireServer(context=served_by(certificates)) as tls:
        proxy = await asyncio.start_server(_tunnel, "127.0.0.1", 0)
        where = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", where)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", tls.url)
        answered = await failure(aws)
        assert (answered.kind, tls.requests) == (Kind.CREDENTIALS, [])
        assert "certificate" in answered.error.lower()

        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
        assert (await start(aws)).status == 200
        proxy.close()


async def test_a_fixed_certificate_authority_is_noticed(
    aws: Aws, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(certificates.other_authority.read_bytes())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    async with WireServer(context=served_by(certificates)) as tls:
        monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", tls.url)
        assert (await failure(aws)).kind is Kind.CREDENTIALS
        bundle.write_bytes(certificates.authority.read_bytes())
        assert (await start(aws)).status == 200


async def test_an_old_date_stands_no_worker_down_after_its_time_was_accepted(
    api: WireServer, aws: Aws
) -> None:
    stale = answer(403, date=formatdate(time.time() - 3600, usegmt=True))
    api.reply = stale
    assert read(await start(aws)).kind is Kind.CLOCK
    api.reply = answer(200)
    await start(aws)
    api.reply = stale
    assert read(await start(aws, region="eu-central-1")).kind is Kind.CREDENTIALS


async def test_the_workers_time_is_uncertain_again_after_the_clock_was_set(
    api: WireServer, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(aws)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + 3600)
    api.reply = answer(403, date=formatdate(true_time(), usegmt=True))
    assert read(await start(aws)).kind is Kind.CLOCK


def served_by(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Act as an HTTP proxy for one CONNECT."""
    host, _, port = (await reader.readline()).decode().split(" ")[1].rpartition(":")
    while (await reader.readline()).strip():
        pass
    there, to_there = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await asyncio.gather(_pass_on(reader, to_there), _pass_on(there, writer))


async def _pass_on(source: asyncio.StreamReader, sink: Any) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
    except OSError:
        pass
    finally:
        sink.close()
