"""An import's record: read from stored text, shown as the contract's result or as its error."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.errors import (
    ImportCancelled,
    ImportEndedError,
    ImportFailed,
    ImportRejected,
    ImportTimedOut,
)
from worker.domain.imports import Import, iso_time
from worker.domain.states import TERMINAL, State

NOON_MS = 1_782_043_200_123
FIELDS = {
    "state": "succeeded",
    "app_id": "d1",
    "backend_environment_name": "staging",
    "account": "acme",
    "region": "eu-central-1",
    "request_json": '{"appId":"d1","backendEnvironmentName":"staging","userPoolId":"us-east-1_A",'
    '"webClientId":"w","nativeClientId":"n","metadata":{"ticket":"7"}}',
    "batch_id": "june",
    "job_id": "job-1",
    "operation": "ImportBackendAuth",
    "status": "COMPLETED",
    "attempts": "2",
    "polls": "9",
    "conflicts": "3",
    "doubts": "1",
    "stuck": "1",
    "accepted_at_ms": str(NOON_MS),
    "first_start_at_ms": str(NOON_MS + 1_000),
    "started_at_ms": str(NOON_MS + 2_000),
    "finished_at_ms": str(NOON_MS + 60_000),
}


def stored(**changes: str) -> Import:
    return Import.from_fields("import-1", {**FIELDS, **changes})


@pytest.mark.parametrize(
    ("import_id", "batch_id", "retry_of", "expected"),
    [
        ("i", "b", "", ("i:retry-1", "b:retry-1")),
        ("i:retry-1", "b:retry-1", "i", ("i:retry-2", "b:retry-2")),
        ("i:retry-9", "b:retry-9", "i:retry-8", ("i:retry-10", "b:retry-10")),
        ("i:retry-1", "", "i", ("i:retry-2", "")),
        ("i:retry-5", "b:retry-7", "", ("i:retry-5:retry-1", "b:retry-7:retry-1")),
    ],
)
def test_a_retry_is_named_after_the_first_import(
    import_id: str, batch_id: str, retry_of: str, expected: tuple[str, str]
) -> None:
    item = Import.from_fields(
        import_id, {**FIELDS, "state": "failed", "batch_id": batch_id, "retry_of": retry_of}
    )
    assert (item.retry_id, item.retry_batch_id) == expected


def test_a_record_is_read_from_its_stored_text() -> None:
    item = stored(error="e", doubt="gone", doubt_error="HTTP 404")
    assert item == Import(
        id="import-1",
        state=State.SUCCEEDED,
        app_id="d1",
        backend_environment_name="staging",
        account="acme",
        region="eu-central-1",
        request_json=FIELDS["request_json"],
        batch_id="june",
        job_id="job-1",
        operation="ImportBackendAuth",
        status="COMPLETED",
        error="e",
        attempts=2,
        polls=9,
        conflicts=3,
        doubts=1,
        stuck=True,
        doubt="gone",
        doubt_error="HTTP 404",
        accepted_at_ms=NOON_MS,
        first_start_at_ms=NOON_MS + 1_000,
        started_at_ms=NOON_MS + 2_000,
        finished_at_ms=NOON_MS + 60_000,
    )


def test_a_record_needs_no_more_than_its_state() -> None:
    item = Import.from_fields("import-1", {"state": "waiting"})
    assert (item.attempts, item.job_id, item.stuck, item.finished_at_ms) == (0, "", False, 0)


def test_fields_of_a_newer_release_are_ignored() -> None:
    assert stored(colour="red", lease="abc") == stored()


@pytest.mark.parametrize("text", ["1782043200123", "1782043200123.0", "1.782043200123e12"])
def test_a_number_is_read_however_lua_wrote_it(text: str) -> None:
    assert stored(accepted_at_ms=text).accepted_at_ms == NOON_MS


def test_target_and_lane_have_the_form_in_which_people_write_them() -> None:
    assert (stored().target, stored().lane) == ("d1/staging", "acme/eu-central-1")


def test_an_accepted_import_has_its_request() -> None:
    assert stored().members["userPoolId"] == "us-east-1_A"
    assert stored().members["metadata"] == {"ticket": "7"}


def test_a_rejected_import_shows_what_is_known_of_its_target() -> None:
    members = stored(request_json="", backend_environment_name="").members
    assert members == {"appId": "d1", "backendEnvironmentName": ""}


def test_the_result_has_exactly_the_members_of_the_contract() -> None:
    assert stored().result() == {
        "importId": "import-1",
        "appId": "d1",
        "backendEnvironmentName": "staging",
        "jobId": "job-1",
        "operation": "ImportBackendAuth",
        "status": "COMPLETED",
        "error": None,
        "outcome": "succeeded",
        "attempts": 2,
        "acceptedAt": "2026-06-21T12:00:00.123Z",
        "startedAt": "2026-06-21T12:00:02.123Z",
        "finishedAt": "2026-06-21T12:01:00.123Z",
    }


def test_unknown_values_are_null_in_the_result() -> None:
    item = Import.from_fields("import-1", {"state": "waiting", "accepted_at_ms": "1"})
    result: dict[str, Any] = item.result()
    unknown = ("jobId", "operation", "status", "error", "outcome", "startedAt", "finishedAt")
    assert result.keys() == stored().result().keys()
    assert [result[member] for member in unknown] == [None] * len(unknown)


@pytest.mark.parametrize("state", State)
def test_only_an_import_that_is_over_has_an_outcome(state: State) -> None:
    over = state in TERMINAL
    item = stored(state=state)
    assert item.is_terminal is over
    assert item.result()["outcome"] == (state.value if over else None)


def test_a_missing_time_is_none() -> None:
    assert iso_time(0) is None


@settings(derandomize=True, database=None)
@given(milliseconds=st.integers(1, 4_102_444_800_000))
def test_a_time_is_kept_to_the_millisecond(milliseconds: int) -> None:
    text = iso_time(milliseconds)
    assert text is not None
    assert text.endswith("Z")
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo == UTC
    assert round(moment.timestamp() * 1000) == milliseconds


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State.FAILED, ImportFailed),
        (State.REJECTED, ImportRejected),
        (State.TIMED_OUT, ImportTimedOut),
        (State.CANCELLED, ImportCancelled),
    ],
)
def test_an_unsuccessful_end_is_an_error_that_names_target_job_and_reason(
    state: State, kind: type[ImportEndedError]
) -> None:
    error = stored(state=state, error="the pool is gone").ended_error()
    assert type(error) is kind
    for fact in ("d1/staging", "job-1", "the pool is gone"):
        assert fact in str(error)


def test_an_error_without_a_job_does_not_name_one() -> None:
    error = stored(state="rejected", job_id="", error="appId: is required").ended_error()
    assert "job" not in str(error)
    assert "appId: is required" in str(error)


def test_an_error_without_a_reason_says_so() -> None:
    assert "no reason given" in str(stored(state="cancelled").ended_error())


@pytest.mark.parametrize("state", ["waiting", "starting", "running", "succeeded"])
def test_no_other_state_is_an_error(state: str) -> None:
    assert stored(state=state).ended_error() is None
