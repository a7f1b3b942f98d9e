"""Raw HTTP answers of the API, with the error names of the documentation, of botocore, or none."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.domain.answers import Answer, Job, Kind
from worker.operations.http import Page, Response, read, read_page

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
DATE_EPOCH = 1_700_000_000


def answer_of(status: int, body: object = b"", **headers: str) -> Answer:
    """Read an answer. A body that is not bytes is sent as JSON; `retry_after` becomes
    `retry-after`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read(Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, content))


def test_a_started_job_is_read() -> None:
    body = {
        "appId": "d1",
        "backendEnvironmentName": "staging",
        "jobId": "job-1",
        "operation": "ImportBackendAuth",
        "status": "CREATING",
        "error": "none\nso far",
    }
    assert answer_of(200, body) == Answer(
        kind=Kind.OK,
        jobs=(
            Job(
                job_id="job-1",
                operation="ImportBackendAuth",
                status="CREATING",
                error="none so far",
            ),
        ),
    )


def test_a_list_of_jobs_is_read_in_its_order() -> None:
    answer = answer_of(200, {"jobs": [{"jobId": "b"}, {"jobId": "a", "status": "FAILED"}]})
    assert answer.jobs == (Job(job_id="b"), Job(job_id="a", status="FAILED"))


def test_an_empty_list_has_no_jobs() -> None:
    assert answer_of(200, {"jobs": []}) == Answer(kind=Kind.OK)


def test_a_list_entry_that_is_not_a_job_is_skipped() -> None:
    answer = answer_of(200, {"jobs": [None, "x", 5, ["jobId"], {"jobId": "a"}]})
    assert answer.jobs == (Job(job_id="a"),)


@pytest.mark.parametrize("value", [None, 5, True, ["x"], {"x": "y"}], ids=repr)
def test_a_member_of_the_wrong_type_is_absent(value: object) -> None:
    members = ("jobId", "operation", "status", "error", "createTime")
    assert answer_of(200, dict.fromkeys(members, value)).job == Job()


def page_of(status: int, body: object) -> Page | Answer:
    return read_page(Response(status, {}, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("body", "page"),
    [
        ({"jobs": [], "nextToken": "t"}, Page((), "t")),
        ({"jobs": []}, Page((), "")),
        ({"jobs": [{"jobId": "j"}], "nextToken": None}, Page((Job(job_id="j"),), "")),
        ({"jobs": [], "nextToken": "t" * 2000}, Page((), "t" * 2000)),
    ],
    ids=repr,
)
def test_a_page_is_read_with_the_token_of_the_next(body: object, page: Page) -> None:
    assert page_of(200, body) == page


@pytest.mark.parametrize(
    "body",
    [
        {"nextToken": "t"},
        {"jobs": None},
        {"jobs": {}},
        {},
        {"jobs": [{"jobId": "a"}, None]},
        {"jobs": ["a"]},
        {"jobs": [], "nextToken": 5},
        {"jobs": [], "nextToken": {"token": "t"}},
    ],
    ids=repr,
)
def test_an_answer_with_an_unreadable_list_is_not_a_page(body: object) -> None:
    answer = page_of(200, body)
    assert isinstance(answer, Answer)
    assert answer.kind is Kind.UNKNOWN


def test_an_error_is_not_a_page() -> None:
    answer = page_of(429, {"jobs": [], "message": "slow down"})
    assert isinstance(answer, Answer)
    assert answer.kind is Kind.THROTTLED


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"jobId": "job-1", "sta', id="cut off"),
        pytest.param(b'["jobId"]', id="a list"),
        pytest.param(b'"job-1"', id="a text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"<html>Welcome</html>", id="a page"),
        pytest.param(b"\xff\xfe\x00", id="no text at all"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", id="a number too long for Python"),
    ],
)
def test_an_unreadable_success_is_unknown(body: bytes) -> None:
    answer = answer_of(200, body)
    assert answer == Answer(kind=Kind.UNKNOWN, error="the answer was cut off or is not JSON")


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_deeply_nested_body_is_unreadable_like_any_other(status: int, opening: bytes) -> None:
    expected = Kind.BAD_REQUEST if status == 400 else Kind.UNKNOWN
    assert answer_of(status, opening * 100_000).kind is expected


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "BadRequestException", Kind.BAD_REQUEST),
        (404, "NotFoundException", Kind.NOT_FOUND),
        (429, "LimitExceededException", Kind.THROTTLED),
        (429, "TooManyRequestsException", Kind.THROTTLED),
        (504, "InternalServiceException", Kind.UNKNOWN),
        (504, "GatewayTimeoutException", Kind.UNKNOWN),
    ],
)
@pytest.mark.parametrize("place", ["header", "header with a link", "code", "__type", "nowhere"])
def test_the_status_decides_wherever_the_error_name_is(
    status: int, code: str, kind: Kind, place: str
) -> None:
    headers, members = {}, {"message": "no luck"}
    match place:
        case "header":
            headers = {"x_amzn_errortype": code}
        case "header with a link":
            headers = {"x_amzn_errortype": f"{code}:http://internal.amazon.com/coral/x/"}
        case "code":
            members["code"] = code
        case "__type":
            members["__type"] = f"com.amazonaws.amplifybackend#{code}"
    answer = answer_of(status, members, **headers)
    assert answer.kind is kind
    name = "" if place == "nowhere" else f" {code}"
    assert answer.error == f"HTTP {status}{name}: no luck"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Kind.CREDENTIALS),
        (403, Kind.CREDENTIALS),
        (405, Kind.BAD_REQUEST),
        (408, Kind.UNKNOWN),
        (409, Kind.CONFLICT),
        (413, Kind.BAD_REQUEST),
        (418, Kind.BAD_REQUEST),
        (429, Kind.THROTTLED),
        (500, Kind.UNKNOWN),
        (502, Kind.UNKNOWN),
        (503, Kind.UNKNOWN),
        (504, Kind.UNKNOWN),
        (599, Kind.UNKNOWN),
        (204, Kind.UNKNOWN),
        (302, Kind.UNKNOWN),
    ],
)
@pytest.mark.parametrize("body", [b"", b"{}", b"[]"])
def test_a_status_is_enough_without_a_body(status: int, kind: Kind, body: bytes) -> None:
    assert answer_of(status, body).kind is kind


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>", "text/html; charset=utf-8"),
        (b"\n<?xml version='1.0'?><Error/>", "application/json"),
        (b"404 page not found", "text/plain"),
        (b"", "text/html"),
    ],
)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.UNKNOWN),
        (401, Kind.CREDENTIALS),
        (403, Kind.CREDENTIALS),
        (404, Kind.UNKNOWN),
        (405, Kind.UNKNOWN),
        (407, Kind.CREDENTIALS),
        (409, Kind.CONFLICT),
        (413, Kind.UNKNOWN),
        (426, Kind.UNKNOWN),
        (429, Kind.THROTTLED),
        (502, Kind.UNKNOWN),
    ],
)
def test_the_answer_of_a_proxy_rejects_nothing(
    status: int, kind: Kind, body: bytes, content_type: str
) -> None:
    assert answer_of(status, body, content_type=content_type).kind is kind


def test_json_declared_as_text_is_read() -> None:
    body = {"code": "NotFoundException", "message": "no such app"}
    assert answer_of(404, body, content_type="text/json").kind is Kind.NOT_FOUND


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("LimitExceededException", Kind.THROTTLED),
        ("TooManyRequestsException", Kind.THROTTLED),
        ("ThrottlingException", Kind.THROTTLED),
        ("Throttling", Kind.THROTTLED),
        ("ExpiredTokenException", Kind.CREDENTIALS),
        ("UnrecognizedClientException", Kind.CREDENTIALS),
        ("InvalidSignatureException", Kind.CREDENTIALS),
        ("ExpiredToken", Kind.CREDENTIALS),
        ("RequestExpired", Kind.CREDENTIALS),
        ("RequestTimeTooSkewed", Kind.CREDENTIALS),
        ("SignatureDoesNotMatch", Kind.CREDENTIALS),
        ("AccessDenied", Kind.CREDENTIALS),
        ("NotAuthorized", Kind.CREDENTIALS),
        ("NotAuthorizedException", Kind.CREDENTIALS),
        ("OptInRequired", Kind.CREDENTIALS),
        ("InvalidClientTokenId", Kind.CREDENTIALS),
        ("AuthFailure", Kind.CREDENTIALS),
        ("RequestLimitExceeded", Kind.THROTTLED),
        ("SlowDown", Kind.THROTTLED),
        ("RequestTimeout", Kind.UNKNOWN),
        ("InternalFailure", Kind.UNKNOWN),
        ("InternalServerError", Kind.UNKNOWN),
        ("ServiceUnavailableException", Kind.UNKNOWN),
        ("ValidationException", Kind.BAD_REQUEST),
        ("NotFoundException", Kind.BAD_REQUEST),
        ("", Kind.BAD_REQUEST),
    ],
)
def test_a_400_may_be_a_throttle_or_concern_credentials(code: str, kind: Kind) -> None:
    assert answer_of(400, {"code": code}).kind is kind


@pytest.mark.parametrize(
    ("ahead_seconds", "message"),
    [(241, "241 s ahead of AWS's"), (-241, "241 s behind AWS's"), (3600, "3600 s ahead of AWS's")],
)
def test_a_refusal_is_blamed_on_the_workers_clock_if_it_is_minutes_off(
    ahead_seconds: float, message: str
) -> None:
    body = json.dumps({"code": "InvalidSignatureException", "message": "Signature expired"})
    for status in (400, 403):
        answer = read(Response(status, {"date": DATE}, body.encode(), DATE_EPOCH + ahead_seconds))
        assert answer.kind is Kind.CLOCK
        assert message in answer.error
        assert "Signature expired" in answer.error


@pytest.mark.parametrize(("age", "kind"), [("3600", Kind.CREDENTIALS), ("x", Kind.CLOCK)])
def test_the_age_of_a_cached_refusal_is_taken_into_account(age: str, kind: Kind) -> None:
    headers = {"date": DATE, "age": age}
    assert read(Response(403, headers, b"{}", DATE_EPOCH + 3600)).kind is kind


def test_an_old_refusal_is_not_blamed_on_the_clock_after_the_workers_time_was_accepted() -> None:
    late = Response(403, {"date": DATE}, b"{}", DATE_EPOCH + 3600, clock_is_right=True)
    assert read(late).kind is Kind.CREDENTIALS


@pytest.mark.parametrize(("status", "kind"), [(400, Kind.UNKNOWN), (404, Kind.UNKNOWN)])
def test_a_truncated_error_proves_nothing_about_the_request(status: int, kind: Kind) -> None:
    assert read(Response(status, {}, b"", cut_off=True)).kind is kind


@pytest.mark.parametrize(
    ("status", "date", "ahead_seconds", "kind"),
    [
        (403, DATE, 239, Kind.CREDENTIALS),
        (403, DATE, -239, Kind.CREDENTIALS),
        (403, "", 3600, Kind.CREDENTIALS),
        (403, "yesterday", 3600, Kind.CREDENTIALS),
        (429, DATE, 3600, Kind.THROTTLED),
        (404, DATE, 3600, Kind.NOT_FOUND),
    ],
)
def test_no_other_answer_is_blamed_on_the_workers_clock(
    status: int, date: str, ahead_seconds: float, kind: Kind
) -> None:
    response = Response(status, {"date": date}, b"{}", DATE_EPOCH + ahead_seconds)
    assert read(response).kind is kind


@pytest.mark.parametrize("code", ["BadRequestException", "ValidationException", ""])
@pytest.mark.parametrize("member", ["message", "Message"])
def test_a_pending_job_is_a_conflict_under_any_name(code: str, member: str) -> None:
    text = "There is Already a Pending Job for this environment"
    assert answer_of(400, {"code": code, member: text}).kind is Kind.CONFLICT


@pytest.mark.parametrize("code", ["LimitExceededException", "TooManyRequestsException", "X", ""])
@pytest.mark.parametrize("member", ["limitType", "LimitType"])
def test_a_limits_type_is_read_under_any_name(code: str, member: str) -> None:
    assert answer_of(429, {"code": code, member: "calls"}).limit_type == "calls"


@pytest.mark.parametrize(
    ("body", "concurrent"),
    [
        ({"limitType": "CONCURRENT_JOBS", "message": "Slow down."}, True),
        ({"LimitType": "jobsInProgress"}, True),
        ({"message": "You have too many jobs running."}, True),
        ({"message": "Number of simultaneous imports exceeded"}, True),
        ({"limitType": "REQUESTS_PER_SECOND", "message": "Too many concurrent requests"}, False),
        ({"message": "Rate exceeded"}, False),
        ({}, False),
    ],
)
def test_a_limit_of_unfinished_jobs_is_distinguished_from_a_rate(
    body: dict[str, str], *, concurrent: bool
) -> None:
    assert answer_of(429, body).concurrent is concurrent


@pytest.mark.parametrize("member", ["resourceType", "ResourceType"])
def test_a_missing_resource_is_named(member: str) -> None:
    answer = answer_of(404, {"message": "not found", member: "App"})
    assert answer.resource_type == "App"
    assert answer.error == "HTTP 404: not found (App)"
    assert answer_of(404, {member: "App"}).error == "HTTP 404: App"


def test_an_html_page_is_not_repeated() -> None:
    page = b"\n <!DOCTYPE html><html><body>" + b"<p>Bad gateway</p>" * 500 + b"</body></html>"
    answer = answer_of(502, page, content_type="text/html")
    assert answer.error == "HTTP 502: an HTML page"


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"oops", b'{"message": 5}', b'{"mess'])
def test_an_error_without_a_message_says_so(body: bytes) -> None:
    assert answer_of(500, body).error == "HTTP 500: no message"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("two\nlines", "two lines"),
        ("\x1b[31mred\x00", "[31mred"),
        ("a\u2028b\u200bc", "a b c"),
        ("\ud800x", "x"),
        ("Zoë  😀", "Zoë 😀"),
    ],
)
def test_an_error_is_one_printable_line(message: str, line: str) -> None:
    assert answer_of(400, {"message": message}).error == f"HTTP 400: {line}"


def test_a_long_error_is_cut() -> None:
    error = answer_of(400, {"message": "m" * 5000, "resourceType": "r" * 5000}).error
    assert len(error) == 300
    assert error.startswith("HTTP 400: mmm")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5),
        (" 5 ", 5),
        ("0", 0),
        ("0.25", 0.25),
        ("-3", 0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 23:13:50 +0100", 30),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0),
        ("", None),
        ("soon", None),
        ("5 s", None),
        ("Tue, 32 Nov 2023 22:13:50 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_read(status: int, header: str, seconds: float | None) -> None:
    answer = answer_of(status, b"", retry_after=header, date=DATE)
    assert answer.retry_after_seconds == seconds


@pytest.mark.parametrize("header", ["inf", "Infinity", "1e999", "nan"])
def test_an_invalid_retry_after_is_ignored(header: str) -> None:
    assert answer_of(429, b"", retry_after=header, date=DATE).retry_after_seconds is None


@pytest.mark.parametrize("date", ["", "today"])
def test_a_retry_after_date_is_ignored_without_the_servers_date(date: str) -> None:
    answer = answer_of(429, b"", retry_after="Tue, 14 Nov 2023 22:13:50 GMT", date=date)
    assert answer.retry_after_seconds is None


def test_without_retry_after_there_is_none() -> None:
    assert answer_of(429, {"message": "slow down"}, date=DATE).retry_after_seconds is None


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/New_York"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set this machine's time zone, which must not matter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("time_zone")
@pytest.mark.parametrize(
    ("created", "ago"),
    [
        (str(DATE_EPOCH - 90), 90),
        (f"{DATE_EPOCH - 90}.5", 89.5),
        (str(DATE_EPOCH + 1), -1),
        ("2023-11-14T22:11:50Z", 90),
        ("2023-11-14T22:11:50.500Z", 89.5),
        ("2023-11-14T23:11:50+01:00", 90),
        ("2023-11-14T22:11:50", 90),
        ("Tue, 14 Nov 2023 22:11:50 GMT", 90),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_jobs_age_is_measured_by_the_servers_clock(created: str, ago: float | None) -> None:
    answer = answer_of(200, {"jobs": [{"jobId": "a", "createTime": created}]}, date=DATE)
    assert answer.job.created_seconds_ago == ago


@pytest.mark.parametrize("created", ["inf", "-inf", "nan", "1e999"])
def test_an_invalid_creation_time_gives_no_age(created: str) -> None:
    answer = answer_of(200, {"jobId": "a", "createTime": created}, date=DATE)
    assert answer.job.created_seconds_ago is None


def test_a_job_has_no_age_without_the_servers_date() -> None:
    assert answer_of(200, {"jobId": "a", "createTime": "1"}).job.created_seconds_ago is None


steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)
statuses = st.integers(100, 599)
texts = st.text(st.characters())
values: st.SearchStrategy[Any] = (
    texts | st.none() | st.integers() | st.lists(texts, max_size=2) | st.floats()
)
members = st.dictionaries(
    st.sampled_from(
        [
            *("jobId", "operation", "status", "error", "createTime", "nextToken"),
            *("message", "Message", "code", "__type", "limitType", "resourceType"),
        ]
    ),
    values,
)
bodies = (
    st.binary(max_size=200)
    | members.map(lambda body: json.dumps(body).encode())
    | st.lists(members, max_size=3).map(lambda jobs: json.dumps({"jobs": jobs}).encode())
)
header_texts = st.text(st.characters(codec="latin-1"), max_size=40) | st.sampled_from(
    [DATE, "1", "1e400", "-0", "nan", "0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59"]
)


def check(answer: Answer) -> None:
    assert answer.error.isprintable()
    assert len(answer.error) <= 300
    assert (answer.kind is Kind.OK) == (not answer.error)


@steady
@given(status=statuses, body=bodies)
def test_any_body_under_any_status_is_an_answer(status: int, body: bytes) -> None:
    answer = answer_of(status, body)
    check(answer)
    assert answer.kind is not Kind.OK or status == 200


@steady
@given(
    status=st.sampled_from([200, 400, 429, 503]),
    created=header_texts,
    date=header_texts,
    retry_after=header_texts,
    code=header_texts,
)
@example(200, "Tue, 14 Nov 2023 22:13:30 +99999999999999999999", DATE, "", "")
@example(429, "", DATE, "Tue, 14 Nov 2023 22:13:30 +99999999999999999999", "")
def test_any_header_is_read_without_an_error(
    status: int, created: str, date: str, retry_after: str, code: str
) -> None:
    body = {"jobId": "a", "createTime": created}
    answer = answer_of(status, body, date=date, retry_after=retry_after, x_amzn_errortype=code)
    check(answer)
    assert answer.retry_after_seconds is None or answer.retry_after_seconds >= 0


@steady
@given(status=statuses, body=members)
@example(200, {"jobId": "\ud800"})
@example(429, {"limitType": "\ud800"})
def test_every_text_of_an_answer_can_be_stored(status: int, body: dict[str, Any]) -> None:
    answer = answer_of(status, body)
    job = answer.job
    for text in (job.job_id, job.operation, job.status, answer.limit_type, answer.resource_type):
        assert text.encode("utf-8", "replace").decode() == text
