"""What follows from what AWS shows of an import that has succeeded."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.model import POLICY
from worker.domain.answers import Answer, Job, Kind
from worker.domain.claims import Call, Claim
from worker.domain.decisions import (
    Decision,
    End,
    NoteVerified,
    PauseLane,
    PollAgain,
    Requeue,
    Throttle,
)
from worker.domain.imports import Import
from worker.domain.rules import decide_poll
from worker.domain.states import State
from worker.domain.verification import GIVE_UP_SECONDS, LAG_SECONDS, Verification
from worker.operations.shown import mismatch

DONE = Job(job_id="j", status="COMPLETED")
AGAIN = PollAgain(Job(), POLICY.poll_max_seconds)
EXPECTED = {"UserPoolId": "p", "AppClientIDWeb": "w"}


def claim(seconds: float, state: State = State.SUCCEEDED) -> Claim:
    """Return a claim for an import that ended so many seconds ago."""
    item = Import(
        id="i",
        state=state,
        app_id="d1",
        backend_environment_name="dev",
        account="acme",
        region="eu-west-1",
        job_id="j",
        first_start_at_ms=1000,
        finished_at_ms=11_000,
    )
    return Claim(call=Call.POLL, lease="l", item=item, age_seconds=10 + seconds)


def answered(kind: Kind, mismatch: str = "") -> Answer:
    return Answer(kind=kind, error="" if kind is Kind.OK else "said so", mismatch=mismatch)


@pytest.mark.parametrize(
    ("answer", "seconds", "expected"),
    [
        (answered(Kind.OK), 0, NoteVerified(Verification.CONFIRMED)),
        (answered(Kind.OK, "no pool"), LAG_SECONDS - 1, AGAIN),
        (
            answered(Kind.OK, "no pool"),
            LAG_SECONDS,
            NoteVerified(Verification.UNCONFIRMED, "no pool"),
        ),
        (answered(Kind.CREDENTIALS), 0, PauseLane("said so")),
        (answered(Kind.NOT_FOUND), 0, NoteVerified(Verification.UNKNOWN, "said so")),
        (answered(Kind.BAD_REQUEST), 0, NoteVerified(Verification.UNKNOWN, "said so")),
        (answered(Kind.UNKNOWN), GIVE_UP_SECONDS - 1, AGAIN),
        (
            answered(Kind.UNREACHABLE),
            GIVE_UP_SECONDS,
            NoteVerified(Verification.UNKNOWN, "said so"),
        ),
        (answered(Kind.THROTTLED), 0, Throttle(None, "")),
        (answered(Kind.CLOCK), 0, Requeue()),
    ],
)
def test_what_aws_shows_decides(answer: Answer, seconds: float, expected: Decision) -> None:
    assert decide_poll(answer, claim(seconds), POLICY, 0.5) == expected


def test_only_a_success_is_verified_and_only_if_wanted() -> None:
    ends = [
        decide_poll(Answer(kind=Kind.OK, jobs=(job,)), claim(0, State.RUNNING), policy, 0.5)
        for job in (DONE, Job(job_id="j", status="FAILED"))
        for policy in (POLICY, replace(POLICY, verify=True))
    ]
    assert [end.verify_after_seconds for end in ends if isinstance(end, End)] == [
        0.0,
        POLICY.poll_min_seconds,
        0.0,
        0.0,
    ]


def shown(meta: object) -> bytes:
    text = meta if isinstance(meta, str) else json.dumps(meta)
    return json.dumps({"amplifyMetaConfig": text}).encode()


def resource(**output: Any) -> dict[str, Any]:
    return {"service": "Cognito", "serviceType": "imported", "output": output}


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"auth": {"a": resource(UserPoolId="p", AppClientIDWeb="w", Other="x")}}, ""),
        ({"auth": {"a": resource()}}, ""),
        ({"auth": {"a": {"serviceType": "imported"}}}, ""),
        ({"auth": {"a": resource(UserPoolId="q"), "b": resource(UserPoolId="p")}}, ""),
        (
            {"auth": {"a": resource(UserPoolId="q", AppClientIDWeb="w", AppClientSecret="s3")}},
            "GetBackend shows UserPoolId q, not p",
        ),
        (
            {"auth": {"a": resource(UserPoolId=["q\n"], AppClientIDWeb="v")}},
            (
                "GetBackend shows UserPoolId ['q\\n'], not p;"
                " GetBackend shows AppClientIDWeb v, not w"
            ),
        ),
        (
            {"auth": {"a": {"serviceType": "managed", "output": {"UserPoolId": "p"}}}},
            "GetBackend shows no imported auth resource",
        ),
        ({"storage": {}}, "GetBackend shows no imported auth resource"),
        ({"auth": []}, "GetBackend shows no auth configuration that can be read"),
        ({"auth": {"a": "b"}}, "GetBackend shows no auth configuration that can be read"),
        ("", "GetBackend shows no auth configuration that can be read"),
        ("[]", "GetBackend shows no auth configuration that can be read"),
    ],
)
def test_outputs_are_compared(meta: object, expected: str) -> None:
    assert mismatch(shown(meta), "auth", EXPECTED) == expected


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[1]", b'{"amplifyMetaConfig": null}'])
def test_what_cannot_be_read_confirms_nothing(body: bytes) -> None:
    expected = "GetBackend shows no storage configuration that can be read"
    assert mismatch(body, "storage", {"BucketName": "b"}) == expected
