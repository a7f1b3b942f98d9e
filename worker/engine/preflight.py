"""Checks what an import names before its start, if the operator wants that.

The claim is held meanwhile, so a check delays no other import. It counts as no attempt.
"""

import asyncio
from typing import Final

import structlog

from worker.domain.claims import Call, Claim
from worker.domain.decisions import End, Postpone
from worker.domain.preflight import Checked, Mode, Place, Severity
from worker.domain.states import State
from worker.engine.ports import Checks

log = structlog.get_logger()

POSTPONED_SECONDS: Final = 2.0
"""When a check without an answer is looked at again. Its calls go on in the meantime."""
REFUSED_SECONDS: Final = 30.0
"""When a check is tried again that could not be made, if the operator requires it."""


class NoPreflight:
    """Checks nothing."""

    async def before(self, _claim: Claim) -> End | Postpone | None:
        """Return None: the start may be made."""
        return None


NO_PREFLIGHT: Final = NoPreflight()


class Preflight:
    """Checks imports before their start. A check may take `seconds`."""

    def __init__(self, checks: Checks, mode: Mode, seconds: float) -> None:
        self._checks = checks
        self._mode = mode
        self._seconds = seconds
        self._unchecked: set[Place] = set()

    async def before(self, claim: Claim) -> End | Postpone | None:
        """Return the decision that takes the place of a claimed start; None if it may be made."""
        if self._mode is Mode.OFF or claim.call is not Call.START or claim.may_have_started:
            return None
        item = claim.item
        place = Place(item.account, item.region)
        checking = self._checks.preflight(item.requested_operation, item.members, place)
        try:
            async with asyncio.timeout(self._seconds):
                checked = await checking
        except TimeoutError:
            return Postpone(POSTPONED_SECONDS, f"no answer within {self._seconds:g} s")
        self._log(checked, place)
        errors = checked.of(Severity.ERROR)
        if errors and self._mode is not Mode.WARN:
            return End(State.REJECTED, "; ".join(map(str, errors)), uncalled=True)
        if checked.unchecked and self._mode is Mode.REQUIRE:
            return Postpone(REFUSED_SECONDS, checked.unchecked)
        return None

    def _log(self, checked: Checked, place: Place) -> None:
        """Log what does not end the import; that a place can't be checked, only once."""
        shown = [
            str(finding)
            for finding in checked.findings
            if finding.severity is Severity.WARNING or self._mode is Mode.WARN
        ]
        if shown:
            log.warning("preflight.warned", findings=shown)
        if not checked.unchecked:
            self._unchecked.discard(place)
        elif place not in self._unchecked:
            self._unchecked.add(place)
            log.warning("preflight.unavailable", error=checked.unchecked)
