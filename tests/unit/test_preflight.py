"""What follows from a preflight check, by what the operator wants and what was found."""

import asyncio
from collections.abc import Mapping

import pytest

from worker.domain.claims import Call, Claim, Doubt
from worker.domain.decisions import Decision, End, Postpone
from worker.domain.imports import Import
from worker.domain.preflight import NOTHING_FOUND, Checked, Finding, Mode, Place, Severity
from worker.domain.states import State
from worker.engine.preflight import POSTPONED_SECONDS, REFUSED_SECONDS, Preflight

ERROR = Finding(Severity.ERROR, "userPoolId", "does not exist")
WARNING = Finding(Severity.WARNING, "nativeClientId", "is used twice")
REJECTED = End(State.REJECTED, "userPoolId: does not exist", uncalled=True)
WAITS = Postpone(REFUSED_SECONDS, "no permission")

FINE = NOTHING_FOUND
WARNED = Checked((WARNING,))
WRONG = Checked((WARNING, ERROR))
UNCHECKED = Checked(unchecked="no permission")
BOTH = Checked((ERROR,), unchecked="no permission")

EXPECTED: Mapping[Mode, tuple[Decision | None, ...]] = {
    Mode.OFF: (None, None, None, None, None),
    Mode.WARN: (None, None, None, None, None),
    Mode.REJECT: (None, None, REJECTED, None, REJECTED),
    Mode.REQUIRE: (None, None, REJECTED, WAITS, REJECTED),
}


def claim(call: Call = Call.START, **more: object) -> Claim:
    item = Import(
        id="i",
        state=State.STARTING,
        app_id="d1",
        backend_environment_name="dev",
        account="acme",
        region="eu-west-1",
        request_json='{"userPoolId": "p"}',
        **more,  # type: ignore[arg-type]  # whatever the test gives
    )
    return Claim(call=call, lease="l", item=item, age_seconds=0.0)


class Answers:
    """Checks whose result is given; None: it does not come."""

    def __init__(self, result: Checked | None) -> None:
        self.result = result
        self.asked: list[tuple[str, Mapping[str, str], Place]] = []

    async def preflight(self, operation: str, members: Mapping[str, str], place: Place) -> Checked:
        """Return the result."""
        self.asked.append((operation, members, place))
        while self.result is None:
            await asyncio.Event().wait()
        return self.result


@pytest.mark.parametrize("mode", Mode)
async def test_the_mode_and_the_findings_decide(mode: Mode) -> None:
    answers = [Answers(checked) for checked in (FINE, WARNED, WRONG, UNCHECKED, BOTH)]
    decisions = [await Preflight(each, mode, 5.0).before(claim()) for each in answers]
    assert tuple(decisions) == EXPECTED[mode]
    asked = [("ImportBackendAuth", {"userPoolId": "p"}, Place("acme", "eu-west-1"))]
    assert answers[0].asked == ([] if mode is Mode.OFF else asked)


async def test_only_a_first_start_is_checked() -> None:
    answers = Answers(WRONG)
    preflight = Preflight(answers, Mode.REJECT, 5.0)
    for each in (
        claim(Call.POLL),
        claim(Call.RECONCILE),
        claim(doubts=1),
        claim(doubt=Doubt.LOST),
    ):
        assert await preflight.before(each) is None
    assert answers.asked == []


@pytest.mark.parametrize("mode", [Mode.WARN, Mode.REJECT, Mode.REQUIRE])
async def test_a_start_waits_for_a_check_that_takes_long(mode: Mode) -> None:
    expected = Postpone(POSTPONED_SECONDS, "no answer within 0.001 s")
    assert await Preflight(Answers(None), mode, 0.001).before(claim()) == expected
