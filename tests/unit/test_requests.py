"""Import requests: what the contract allows is accepted, anything else is refused and named."""

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.requests import (
    DEFAULT_ACCOUNT,
    MAX_REQUEST_BYTES,
    SHOWN_CHARACTERS,
    InvalidRequestError,
    derive_import_id,
)
from worker.operations.import_backend_auth import ImportBackendAuthRequest
from worker.operations.registry import OPERATIONS

steady = settings(derandomize=True, database=None, deadline=None, max_examples=60)

REQUIRED: Final[dict[str, Any]] = {
    "appId": "d2e1f0g9h8i7j6",
    "backendEnvironmentName": "staging",
    "userPoolId": "us-east-1_AbCdEf123",
    "webClientId": "3n4b5urk1ft4fl3mg5e62d9ado",
    "nativeClientId": "7k8l9mnop1qr2stu3vw4xyz5ab",
}
OPTIONAL: Final[dict[str, Any]] = {
    "identityPoolId": "us-east-1:0a1b2c3d-0123-4567-89ab-0123456789ab",
    "account": "acme prod",
    "region": "eu-central-1",
    "idempotencyKey": "order 7, Überweisung",
    "batchId": "june:2026",
    "priority": "high",
    "deadlineSeconds": 90.5,
    "metadata": {"ticket": "OPS-1", "who": "Zoë 😀", "empty": ""},
}
FULL: Final[dict[str, Any]] = {**REQUIRED, **OPTIONAL}

FIELD_OF: Final = {
    "appId": "app_id",
    "backendEnvironmentName": "backend_environment_name",
    "userPoolId": "user_pool_id",
    "webClientId": "web_client_id",
    "nativeClientId": "native_client_id",
    "identityPoolId": "identity_pool_id",
    "account": "account",
    "region": "region",
    "idempotencyKey": "idempotency_key",
    "batchId": "batch_id",
    "priority": "priority",
    "deadlineSeconds": "deadline_seconds",
    "metadata": "metadata",
}

PATTERNS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "appId": st.from_regex(r"d[a-z0-9]{1,19}", fullmatch=True),
    "backendEnvironmentName": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
    "userPoolId": st.from_regex(r"us-east-1_[0-9a-zA-Z]{1,9}", fullmatch=True),
    "webClientId": st.from_regex(r"[A-Za-z0-9_+]{1,26}", fullmatch=True),
    "nativeClientId": st.from_regex(r"[A-Za-z0-9_+]{1,26}", fullmatch=True),
    "identityPoolId": st.from_regex(r"eu-west-1:[0-9a-f-]{1,36}", fullmatch=True),
    "account": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+=, -]{0,9}", fullmatch=True),
    "region": st.sampled_from(["us-east-1", "eu-central-1", "us-gov-west-1", "ap-southeast-2"]),
    "idempotencyKey": st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1),
    "batchId": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,9}", fullmatch=True),
    "priority": st.sampled_from(["high", "normal", "low"]),
    "deadlineSeconds": st.floats(0.001, 86400) | st.integers(1, 86400),
    "metadata": st.dictionaries(
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9),
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=9),
        max_size=4,
    ),
}
good_requests = st.fixed_dictionaries(
    {name: PATTERNS[name] for name in REQUIRED},
    optional={name: PATTERNS[name] for name in OPTIONAL},
)

any_text = st.text(st.characters())  # including lone surrogates, which JSON can encode
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


def refusal(members: object) -> InvalidRequestError:
    """Return the error with which `members` are refused."""
    with pytest.raises(InvalidRequestError) as caught:
        OPERATIONS.parse(members)
    return caught.value


def refusal_of(member: str, value: object) -> InvalidRequestError:
    return refusal({**FULL, member: value})


def named(error: InvalidRequestError) -> list[str]:
    return [member for member, _ in error.problems]


def repeats_much_of(error: InvalidRequestError, value: object) -> bool:
    """Return whether the message repeats more of the value than an error may show."""
    text, longest = str(value), SHOWN_CHARACTERS + 1
    starts = range(len(text) - longest + 1)
    return any(text[start : start + longest] in str(error) for start in starts)


def deepest_json() -> Any:
    """Return the most deeply nested list that the JSON decoder reads at this stack depth."""
    for depth in range(2000, 0, -1):
        try:
            return json.loads("[" * depth + "]" * depth)
        except RecursionError:
            continue
    raise AssertionError("no JSON can be read")


def test_the_contract_has_exactly_these_members() -> None:
    assert set(ImportBackendAuthRequest.model_fields) == {"operation", *FIELD_OF.values()}


@pytest.mark.parametrize(("member", "value"), FULL.items(), ids=FULL)
@pytest.mark.parametrize("spelling", ["camelCase", "snake_case"])
def test_a_member_is_accepted_in_both_spellings(spelling: str, member: str, value: Any) -> None:
    name = member if spelling == "camelCase" else FIELD_OF[member]
    others = {other: kept for other, kept in REQUIRED.items() if other != member}
    request = OPERATIONS.parse({**others, name: value})
    assert getattr(request, FIELD_OF[member]) == value


@pytest.mark.parametrize("member", REQUIRED)
def test_a_required_member_is_required(member: str) -> None:
    error = refusal({name: value for name, value in FULL.items() if name != member})
    assert error.problems == ((member, "is required"),)


def test_optional_members_have_the_defaults_of_the_contract() -> None:
    request = OPERATIONS.parse(REQUIRED)
    assert request.account == DEFAULT_ACCOUNT == "default"
    assert request.priority == "normal"
    assert request.metadata == {}
    absent = ("identityPoolId", "region", "idempotencyKey", "batchId", "deadlineSeconds")
    assert [getattr(request, FIELD_OF[member]) for member in absent] == [None] * len(absent)


@pytest.mark.parametrize(
    "region", ["us-east-1", "us-gov-west-1", "ap-southeast-2", "cn-north-1", "us-iso-east-1"]
)
def test_the_regions_of_all_partitions_are_accepted(region: str) -> None:
    assert OPERATIONS.parse({**REQUIRED, "region": region}).region == region


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("appId", "d" + "0" * 19),
        ("backendEnvironmentName", "e" * 255),
        ("userPoolId", "us-east-1_" + "a" * 45),
        ("webClientId", "w" * 128),
        ("account", "a" * 64),
        ("idempotencyKey", "k" * 256),
        ("batchId", "b" * 128),
        ("deadlineSeconds", 30 * 86400),
        ("metadata", {f"{number:0128}": "v" * 512 for number in range(16)}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 32 else "",
)
def test_the_longest_value_is_still_accepted(member: str, value: Any) -> None:
    request = OPERATIONS.parse({**REQUIRED, member: value})
    assert getattr(request, FIELD_OF[member]) == value


# Bytes are not JSON, but kombu can encode them in it.
WRONG_TYPES: Final[list[object]] = [True, 5, 1.5, None, b"d1", [], {}, ["x"], {"x": "y"}]


@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
@pytest.mark.parametrize("member", [*REQUIRED, "account"])
def test_required_text_must_be_a_string(member: str, value: object) -> None:
    assert named(refusal_of(member, value)) == [member]


@pytest.mark.parametrize("value", [value for value in WRONG_TYPES if value is not None], ids=repr)
@pytest.mark.parametrize("member", ["identityPoolId", "region", "idempotencyKey", "batchId"])
def test_optional_text_must_be_a_string(member: str, value: object) -> None:
    assert named(refusal_of(member, value)) == [member]


TEXTS: Final = [
    name for name, value in FULL.items() if isinstance(value, str) and name != "priority"
]


@pytest.mark.parametrize("member", TEXTS)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda text: text * 300, id="oversized"),
        pytest.param(lambda text: text + "\n", id="a trailing newline"),
        pytest.param(lambda text: "\r\n" + text, id="a leading line break"),
        pytest.param(lambda text: text + "\x00", id="a null"),
        pytest.param(lambda text: text + "\x1b[31m", id="an escape sequence"),
        pytest.param(lambda text: text + "\x7f", id="a delete"),
        pytest.param(lambda text: text + "\ud800", id="a lone surrogate"),
    ],
)
def test_malformed_text_is_refused(member: str, spoil: Any) -> None:
    value = spoil(FULL[member])
    error = refusal_of(member, value)
    assert named(error) == [member]
    assert str(error).isprintable()
    assert not repeats_much_of(error, value)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("appId", "d"),
        ("appId", "e2e1f0g9h8"),
        ("appId", "D2E1F0G9H8"),
        ("appId", "d2e1-f0g9"),
        ("appId", "d/../../x"),
        ("appId", "d\N{ARABIC-INDIC DIGIT ONE}"),
        ("backendEnvironmentName", ".."),
        ("backendEnvironmentName", "a/b"),
        ("backendEnvironmentName", "a b"),
        ("backendEnvironmentName", "prüfung"),
        ("userPoolId", "us-east-1"),
        ("userPoolId", "us-east-1_"),
        ("userPoolId", "us-east-1_a-b"),
        ("userPoolId", "us-east-1:AbCdEf123"),
        ("webClientId", "a-b"),
        ("nativeClientId", "a b"),
        ("identityPoolId", "us-east-1"),
        ("identityPoolId", "us-east-1:XYZ"),
        ("identityPoolId", "us-east-1_0a1b2c3d"),
        ("region", "europe"),
        ("region", "eu-central"),
        ("region", "eu-central-1a"),
        ("region", "EU-CENTRAL-1"),
        ("account", "-leading"),
        ("account", "a/b"),
        ("batchId", "a b"),
        ("batchId", "a{b}"),
        ("batchId", ":a"),
    ],
)
def test_an_id_that_aws_would_never_issue_is_refused(member: str, value: str) -> None:
    error = refusal_of(member, value)
    assert named(error) == [member]
    assert "must look like" in str(error)
    assert ascii(value) in str(error)


@pytest.mark.parametrize("value", ["urgent", "HIGH", "", "high\n", 1, True, None, ["high"]])
def test_a_priority_is_one_of_three_words(value: object) -> None:
    error = refusal_of("priority", value)
    assert named(error) == ["priority"]
    assert "'high', 'normal' or 'low'" in str(error)


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 0.0, 30 * 86400 + 1, float("nan"), float("inf"), -float("inf"), 10**400),
        *("60", "", True, False, [60], {"seconds": 60}),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_deadline_is_a_positive_number_of_at_most_thirty_days(value: object) -> None:
    error = refusal_of("deadlineSeconds", value)
    assert named(error) == ["deadlineSeconds"]
    assert not repeats_much_of(error, value)


@pytest.mark.parametrize(
    ("metadata", "member"),
    [
        pytest.param(None, "metadata", id="null"),
        pytest.param("text", "metadata", id="text"),
        pytest.param([["a", "b"]], "metadata", id="a list of pairs"),
        pytest.param({f"{n}": "v" for n in range(17)}, "metadata", id="seventeen entries"),
        pytest.param({"ticket": 7}, "metadata.ticket", id="a number"),
        pytest.param({"ticket": True}, "metadata.ticket", id="a boolean"),
        pytest.param({"ticket": None}, "metadata.ticket", id="a null value"),
        pytest.param({"ticket": {"id": "7"}}, "metadata.ticket", id="a nested object"),
        pytest.param({"ticket": "v" * 513}, "metadata.ticket", id="a long value"),
        pytest.param({"ticket": "\ud800"}, "metadata.ticket", id="a surrogate in a value"),
        pytest.param({"ticket": "a\x00b"}, "metadata.ticket", id="a control character in a value"),
        pytest.param({"": "v"}, "metadata.", id="an empty key"),
        pytest.param({7: "v"}, "metadata.7", id="a key that is a number"),
        pytest.param({"a\nb": "v"}, r"'metadata.a\nb'", id="a key with a line break"),
    ],
)
def test_metadata_is_a_small_map_of_texts(metadata: object, member: str) -> None:
    error = refusal_of("metadata", metadata)
    assert named(error) == [member]
    assert str(error).isprintable()
    assert not repeats_much_of(error, metadata)


def test_a_metadata_key_with_a_lone_surrogate_is_refused() -> None:
    error = refusal_of("metadata", {"\ud800": "v"})
    assert "metadata" in str(error)
    assert str(error).isprintable()


def test_an_overlong_metadata_key_is_not_repeated_in_full() -> None:
    key = "k" * 5000
    error = refusal_of("metadata", {key: "v"})
    assert "metadata.k" in str(error)
    assert not repeats_much_of(error, key)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("appid", "appid"),
        ("AppId", "AppId"),
        ("importId", "importId"),
        ("APP_ID", "'APP_ID'"),
        ("app-id", "'app-id'"),
        ("", ""),
        ("appId\n", r"'appId\n'"),
        (7, "7"),
        (None, "None"),
        (("app", "id"), "app"),
    ],
)
def test_an_unknown_member_is_named(name: object, shown: str) -> None:
    members: dict[object, Any] = {name: "x"}
    error = refusal(members | FULL)
    assert len(error.problems) == 1
    assert shown in error.problems[0][0]
    assert error.problems[0][1] == "is not a member of an import request"


def test_an_unknown_member_whose_name_is_a_lone_surrogate_is_named() -> None:
    (name, _), *others = refusal({**FULL, "\ud800": "x"}).problems
    assert name.strip("'")
    assert not others


def test_the_name_of_an_unknown_member_is_not_repeated_in_full() -> None:
    name = "x" * 5000
    error = refusal({**FULL, name: 1})
    assert "is not a member" in str(error)
    assert not repeats_much_of(error, name)


@pytest.mark.parametrize("member", [name for name in FIELD_OF if FIELD_OF[name] != name])
def test_one_member_in_both_spellings_is_refused(member: str) -> None:
    error = refusal({**FULL, FIELD_OF[member]: FULL[member]})
    assert member in str(error)
    assert "is given twice" in str(error)


@pytest.mark.parametrize(
    "members", [None, True, 7, 1.5, "text", b"{}", [], [REQUIRED], ("appId",)], ids=repr
)
def test_a_request_that_is_not_an_object_is_refused(members: object) -> None:
    error = refusal(members)
    assert named(error) == ["request"]
    assert not repeats_much_of(error, members)


def test_every_problem_is_named_at_once() -> None:
    error = refusal(
        {
            "app_id": "x",
            "backendEnvironmentName": "",
            "userPoolId": 7,
            "webClientId": REQUIRED["webClientId"],
            "priority": "urgent",
            "deadlineSeconds": True,
            "metadata": {"a": 1, "b": 2},
            "colour": "red",
        }
    )
    expected = ["appId", "backendEnvironmentName", "userPoolId", "nativeClientId", "priority"]
    expected += ["deadlineSeconds", "metadata.a", "metadata.b", "colour"]
    assert sorted(named(error)) == sorted(expected)
    assert all(f"{member}: " in str(error) for member in expected)


def test_a_member_given_twice_does_not_hide_the_other_problems() -> None:
    error = refusal({**FULL, "app_id": FULL["appId"], "priority": "urgent"})
    assert "appId" in str(error)
    assert "priority" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('"' * 512, id="characters that JSON escapes"),
        pytest.param("😀" * 512, id="characters of four bytes"),
    ],
)
def test_a_request_of_more_than_16_kib_is_refused(text: str) -> None:
    members = {**FULL, "metadata": {f"{number}": text for number in range(16)}}
    as_json = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
    assert len(as_json.encode()) > MAX_REQUEST_BYTES
    assert refusal(members).problems == (("request", "is longer than 16384 bytes"),)


@pytest.mark.parametrize("member", ["appId", "priority", "deadlineSeconds", "metadata"])
def test_a_value_nested_as_deep_as_json_can_be_is_refused_by_name(member: str) -> None:
    value = deepest_json()
    assert named(refusal_of(member, value)) == [member]


@steady
@given(members=good_requests)
def test_a_good_request_survives_a_round_trip_through_json(members: dict[str, Any]) -> None:
    request = OPERATIONS.parse(members)
    again = OPERATIONS.parse(json.loads(request.to_json()))
    assert again == request
    assert again.fingerprint == request.fingerprint
    assert ImportBackendAuthRequest.model_validate_json(request.to_json()) == request


def test_absent_members_are_absent_from_the_json() -> None:
    members = json.loads(OPERATIONS.parse(REQUIRED).to_json())
    assert members == {**REQUIRED, "account": "default", "priority": "normal", "metadata": {}}


@steady
@given(members=good_requests)
def test_both_spellings_have_the_same_fingerprint(members: dict[str, Any]) -> None:
    in_snake_case = {FIELD_OF[name]: value for name, value in members.items()}
    backwards = dict(reversed(in_snake_case.items()))
    expected = OPERATIONS.parse(members).fingerprint
    assert OPERATIONS.parse(in_snake_case).fingerprint == expected
    assert OPERATIONS.parse(backwards).fingerprint == expected


def test_the_order_of_metadata_does_not_count_in_the_fingerprint() -> None:
    one, other = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    first, second = (OPERATIONS.parse({**REQUIRED, "metadata": m}) for m in (one, other))
    assert first.fingerprint == second.fingerprint


@steady
@given(members=good_requests, member=st.sampled_from(list(FULL)), data=st.data())
def test_any_changed_member_changes_the_fingerprint(
    members: dict[str, Any], member: str, data: st.DataObject
) -> None:
    changed = {**members, member: data.draw(PATTERNS[member])}
    before, after = OPERATIONS.parse(members), OPERATIONS.parse(changed)
    same_but_for_the_batch = before == after.model_copy(update={"batch_id": before.batch_id})
    assert (before.fingerprint == after.fingerprint) == same_but_for_the_batch


@pytest.mark.parametrize("member", [name for name in FULL if name != "batchId"])
def test_each_member_counts_in_the_fingerprint(member: str) -> None:
    other = {
        **{name: f"{value}0" for name, value in FULL.items() if isinstance(value, str)},
        "appId": "d1",
        "region": "us-east-1",
        "priority": "low",
        "deadlineSeconds": 91,
        "metadata": {"ticket": "OPS-2"},
        "identityPoolId": "us-east-1:0a",
    }
    changed = OPERATIONS.parse({**FULL, member: other[member]})
    assert changed.fingerprint != OPERATIONS.parse(FULL).fingerprint


def read_or_refuse(members: object) -> None:
    """Parse; accepted requests can be stored, refusals have a printable explanation."""
    error = None
    try:
        request = OPERATIONS.parse(members)
    except InvalidRequestError as refused:
        error = refused
    if error is None:
        assert len(request.to_json().encode()) <= MAX_REQUEST_BYTES
        return
    assert error.problems
    assert all(member and reason for member, reason in error.problems)
    assert str(error).isprintable()


@steady
@given(members=json_values)
def test_any_json_is_read_or_refused(members: object) -> None:
    read_or_refuse(members)


@steady
@given(
    spoiled=st.dictionaries(
        st.sampled_from([*FIELD_OF, *FIELD_OF.values()])
        | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        json_values,
        min_size=1,
        max_size=4,
    )
)
def test_a_damaged_request_is_read_or_refused(spoiled: Mapping[str, Any]) -> None:
    read_or_refuse({**FULL, **spoiled})


def test_the_derived_import_id_never_changes() -> None:
    assert derive_import_id("june", 0) == "ce1a674a-4f4c-5db9-857b-bb5948d12d1a"


@steady
@given(
    batch=PATTERNS["batchId"],
    other_batch=PATTERNS["batchId"],
    position=st.integers(0, 10**6),
    other_position=st.integers(0, 10**6),
)
def test_import_ids_differ_where_batch_or_position_does(
    batch: str, other_batch: str, position: int, other_position: int
) -> None:
    same = (batch, position) == (other_batch, other_position)
    derived = derive_import_id(batch, position), derive_import_id(other_batch, other_position)
    assert (derived[0] == derived[1]) == same


def test_a_position_may_be_a_number_or_its_text() -> None:
    assert derive_import_id("june", 7) == derive_import_id("june", "7")
