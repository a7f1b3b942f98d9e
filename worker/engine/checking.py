"""Checks requests before their admission: their members, their accounts and their regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from worker.domain.outcomes import Envelope, InvalidRequest, ValidRequest
from worker.domain.requests import (
    REGION_PATTERN,
    ImportRequest,
    InvalidRequestError,
    problem_of_import_id,
)
from worker.domain.traces import read_trace
from worker.engine.accounts import Refusals
from worker.engine.ports import Regions, Requests
from worker.engine.reading import batch_id_of, readable, target_of, with_batch


@dataclass(frozen=True, slots=True)
class Parcel:
    """A request during admission. `problem` says what is known to be wrong, '' for nothing."""

    members: object
    envelope: Envelope
    problem: str = ""


def invalid(
    members: object, envelope: Envelope, error: str | InvalidRequestError
) -> InvalidRequest:
    """Return what an invalid request becomes."""
    return InvalidRequest(
        replace(envelope, batch_id=envelope.batch_id or batch_id_of(members)),
        target_of(members),
        (readable(members, "account"), readable(members, "region")),
        str(error),
        error.problems if isinstance(error, InvalidRequestError) else (_problem_in(error),),
    )


def _problem_in(error: str) -> tuple[str, str]:
    member, _, reason = error.partition(": ")
    return member, reason


class RequestCheck:
    """Checks requests. What is wrong with one is in the InvalidRequest that it becomes."""

    def __init__(self, requests: Requests, accounts: Refusals, regions: Regions) -> None:
        self._requests = requests
        self._accounts = accounts
        self._regions = regions

    async def check_all(self, parcels: Sequence[Parcel]) -> list[ValidRequest | InvalidRequest]:
        """Check requests, and ask once for all of their accounts."""
        parsed = [self._parsed(parcel) for parcel in parcels]
        named = {
            each.account
            for parcel, each in zip(parcels, parsed, strict=True)
            # What may have been started already waits in its lane until its account works again.
            if isinstance(each, ImportRequest) and not parcel.envelope.recover_since_ms
        }
        refusals = await self._accounts.refusals(named)
        return [
            self._placed(parcel, each, refusals.get(each.account, ""))
            if isinstance(each, ImportRequest)
            else each
            for parcel, each in zip(parcels, parsed, strict=True)
        ]

    def _parsed(self, parcel: Parcel) -> ImportRequest | InvalidRequest:
        members, envelope = parcel.members, parcel.envelope
        if parcel.problem:
            return invalid(members, envelope, parcel.problem)
        try:
            members = with_batch(members, envelope.batch_id)
            return self._requests.parse(members, envelope.operation)
        except InvalidRequestError as error:
            return invalid(members, envelope, error)

    def _placed(
        self, parcel: Parcel, request: ImportRequest, refusal: str
    ) -> ValidRequest | InvalidRequest:
        try:
            return ValidRequest(parcel.envelope, request, self._region_for(request), refusal)
        except InvalidRequestError as error:
            problems = (("account", refusal),) if refusal else ()
            both = InvalidRequestError((*problems, *error.problems))
            return invalid(parcel.members, parcel.envelope, both)

    def unpack(self, members: object, envelope: Envelope) -> Parcel:
        """Take the importId out of a request, or use that of `envelope` if it has none."""
        if isinstance(members, InvalidRequestError):
            return Parcel({}, envelope, str(members))
        operation = self._requests.name_in(members)
        if not isinstance(members, Mapping):
            return Parcel(members, replace(envelope, operation=operation))
        rest = dict(members)
        own = read_trace(rest.pop("traceparent", None), rest.pop("tracestate", None))
        given = rest.pop("importId", rest.pop("import_id", None))
        problem = "" if given is None else problem_of_import_id(given)
        ids = {} if given is None or problem else {"import_id": given, "task_id": given}
        envelope = replace(envelope, operation=operation, trace=own or envelope.trace, **ids)
        return Parcel(rest, envelope, problem and f"importId: {problem}")

    def _region_for(self, request: ImportRequest) -> str:
        region = request.region or self._regions.region_of(request.account)
        if not region:
            reason = "is not given, and neither AWS_REGION nor the account's profile names one"
            raise InvalidRequestError((("region", reason),))
        if not REGION_PATTERN.fullmatch(region):
            reason = f"is not given, and {region!r}, which the workers are configured with, is none"
            raise InvalidRequestError((("region", reason),))
        return region
