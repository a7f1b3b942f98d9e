"""Admission: the one way in, whichever door a request came through."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, TypeGuard

import structlog

from worker.domain.outcomes import Admission, Ended, Entrance, StopRule, Verdict
from worker.domain.requests import (
    IDENTIFIER_PATTERN,
    MAX_BATCH_REQUESTS,
    MAX_REQUEST_BYTES,
    REGION_PATTERN,
    SHOWN_CHARACTERS,
    ImportRequest,
    InvalidRequestError,
    derive_import_id,
    problem_of_import_id,
)
from worker.engine.ports import Announcer, Door, Regions

log = structlog.get_logger()

ADMITTED_TOGETHER: Final = 50
"""How many requests of a batch are on their way to the store at once."""

LONGEST_TASK_ID: Final = 255

_TWICE: Final = "importId: appears twice in this message"


class Admitter:
    """Validates requests and puts them into the store. Everything here is safe to repeat."""

    def __init__(self, door: Door, regions: Regions, announcer: Announcer) -> None:
        self._door = door
        self._regions = regions
        self._announcer = announcer

    async def admit(self, members: object, entrance: Entrance) -> Admission:
        """Admit one request, or record it as rejected; the import says which member is wrong."""
        try:
            request = ImportRequest.parse(_with_batch(members, entrance.batch_id))
            region = self._region_for(request)
        except InvalidRequestError as error:
            return await self.reject(members, entrance, str(error))
        admission = await self._door.admit(entrance, request, region)
        log.info(
            f"import.{admission.verdict}",
            import_id=admission.import_id,
            target=f"{request.app_id}/{request.backend_environment_name}",
            lane=f"{request.account}/{region}",
            batch_id=request.batch_id,
        )
        return admission

    async def admit_batch(
        self,
        batch_id: str,
        requests: Sequence[object],
        *,
        offset: int,
        total: int | None,
        canary: int | None,
        stop_percent: float | None,
        recover_since: str | None = None,
        not_before_ms: int = 0,
    ) -> list[Admission]:
        """Admit the requests that stand at `offset` and behind it in the whole batch.

        A request may carry its own `importId`; the bad ones become rejected imports, each on its
        own. `total` is the length of the whole batch, where the producer knows it. `canary` and
        `stop_percent` are the batch's stop rule (see `StopRule`). None of them starts earlier than
        `not_before_ms` (since the epoch). With `recover_since` (ISO 8601),
        the store was lost, and what the batch's imports started since then is looked for first.

        Raises:
            InvalidRequestError: when the message itself is wrong; nothing was admitted then.

        """
        _check_batch(batch_id, requests, offset=offset, total=total, canary=canary)
        rule = _rule_of(canary, stop_percent)
        since_ms = _epoch_ms(recover_since)
        await self._door.announce_batch(batch_id, max(offset + len(requests), total or 0), rule)
        parcels: dict[str, _Parcel] = {}
        for index, members in enumerate(requests):
            fallback = derive_import_id(batch_id, offset + index)
            parcel = _unpack(members, _entrance(fallback, batch_id, since_ms, not_before_ms))
            if parcel.entrance.import_id in parcels:
                parcel = _Parcel(members, _entrance(fallback, batch_id), _TWICE)
            parcels[parcel.entrance.import_id] = parcel
        return await self._admit_all(list(parcels.values()), in_order=rule.canary)

    async def admit_entries(self, entries: Sequence[tuple[str, str]]) -> list[Admission]:
        """Admit stream entries, given as id and text; junk becomes a rejected import as well."""
        return await self._admit_all(
            [
                _unpack(_decode(text), _entrance(derive_import_id("stream", entry)))
                for entry, text in entries
            ]
        )

    async def reject_messages(self, texts: Sequence[str]) -> list[Admission]:
        """Record what stood in the queue and is no Celery message; each text becomes an import."""
        ids = [derive_import_id("message", text) for text in texts]
        problem = "message: is no Celery message"
        return await self._admit_all([_Parcel({}, _entrance(each), problem) for each in ids])

    async def reject_message(
        self, task_id: object, tag: str, reason: str, *, ignores_result: bool = False
    ) -> Admission:
        """Record a Celery message that can't be run, and owe its end to the task that it is of.

        The import has its task's id if it may, and `tag` tells it from others where it has none.
        """
        known_as = task_id if _is_task_id(task_id) else ""
        is_id = IDENTIFIER_PATTERN.fullmatch(known_as)
        import_id = known_as if is_id else derive_import_id("message", known_as or tag)
        problem = f"message: can't be run: {_cut(reason)}"
        entrance = replace(
            _entrance(import_id), task_id=known_as or import_id, ignores_result=ignores_result
        )
        (admission,) = await self._admit_together([_Parcel({}, entrance, problem)])
        return admission

    async def _admit_all(self, parcels: Sequence["_Parcel"], in_order: int = 0) -> list[Admission]:
        """Admit requests that no Celery task of the producer's stands for.

        The first `in_order` one by one: canaries are the first of a batch, not the first to arrive.
        """
        admissions: list[Admission] = []
        for parcel in parcels[:in_order]:
            admissions += await self._admit_together([parcel])
        for start in range(in_order, len(parcels), ADMITTED_TOGETHER):
            admissions += await self._admit_together(parcels[start : start + ADMITTED_TOGETHER])
        return admissions

    async def _admit_together(self, parcels: Sequence["_Parcel"]) -> list[Admission]:
        # Shown before they are admitted: an import may be over before a later note is written.
        await self._announcer.waiting(
            [parcel.entrance for parcel in parcels],
            ["/".join(_target_of(parcel.members)) for parcel in parcels],
        )
        admissions = await asyncio.gather(*map(self._admit_parcel, parcels))
        for parcel, admission in zip(parcels, admissions, strict=True):
            if admission.item and admission.item.is_terminal:
                tasks = dict.fromkeys(_tasks_of(parcel.entrance, admission), "")
                await self._announcer.ended(Ended(admission.item, tasks))
        return admissions

    async def _admit_parcel(self, parcel: "_Parcel") -> Admission:
        if parcel.problem:
            return await self.reject(parcel.members, parcel.entrance, parcel.problem)
        admission = await self.admit(parcel.members, parcel.entrance)
        if admission.verdict is Verdict.REUSED:
            return await self._reject_reused(parcel)
        return admission

    async def _reject_reused(self, parcel: "_Parcel") -> Admission:
        """Answer a request whose import id is taken, under an id of its own: it must not vanish.

        A batch's message that forgot its `offset` is the usual cause.
        """
        taken, batch_id = parcel.entrance.import_id, parcel.entrance.batch_id
        digest = sha256(json.dumps(parcel.members, sort_keys=True).encode()).hexdigest()
        error = f"importId: {taken} is another request already"
        if batch_id:
            error += "; give each message of a batch its offset"
        entrance = _entrance(derive_import_id(taken, digest), batch_id)
        return await self.reject(parcel.members, entrance, error)

    def _region_for(self, request: ImportRequest) -> str:
        region = request.region or self._regions.region_of(request.account)
        if not region:
            reason = "is not given, and neither AWS_REGION nor the account's profile names one"
            raise InvalidRequestError((("region", reason),))
        if not REGION_PATTERN.fullmatch(region):
            reason = f"is not given, and {region!r}, which the workers are configured with, is none"
            raise InvalidRequestError((("region", reason),))
        return region

    async def reject(self, members: object, entrance: Entrance, error: str) -> Admission:
        """Record what can't be imported as an import that ended `rejected`."""
        target = _target_of(members)
        lane = (_readable(members, "account"), _readable(members, "region"))
        entrance = replace(entrance, batch_id=entrance.batch_id or _batch_id_of(members))
        admission = await self._door.reject(entrance, target, lane, error)
        if admission.verdict is Verdict.REUSED and not entrance.signature:
            # The id stands for another import; this one must not vanish behind it.
            own = derive_import_id(entrance.import_id, error)
            admission = await self._door.reject(
                _entrance(own, entrance.batch_id), target, lane, error
            )
        if admission.verdict is Verdict.REJECTED:
            log.warning(
                "import.rejected",
                import_id=admission.import_id,
                target="/".join(target),
                batch_id=entrance.batch_id or None,
                error=error,
            )
        return admission


def _rule_of(canary: int | None, stop_percent: object) -> StopRule:
    """Return the stop rule.

    Raises:
        InvalidRequestError: when `stop_percent` is none.

    """
    match stop_percent:
        case None:
            return StopRule(canary or 0)
        case bool():
            pass
        case int() | float() if 0 <= stop_percent <= 100:
            return StopRule(canary or 0, float(stop_percent))
    raise InvalidRequestError((("stopPercent", "must be a number from 0 to 100"),))


def _epoch_ms(time: object) -> int:
    """Return a time in ISO 8601 (UTC unless it says) as milliseconds since the epoch, 0 for None.

    Raises:
        InvalidRequestError: when it is none.

    """
    if time is None:
        return 0
    try:
        moment = datetime.fromisoformat(str(time))
    except ValueError:
        raise InvalidRequestError((("recoverSince", "must be a time in ISO 8601"),)) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(1, round(aware.timestamp() * 1000))


def _check_batch(batch_id: object, requests: object, **numbers: object) -> None:
    """Check the members of a batch message, other than its requests; `numbers` may be None.

    Raises:
        InvalidRequestError: naming the member.

    """
    problems = []
    if not isinstance(batch_id, str) or not IDENTIFIER_PATTERN.fullmatch(batch_id):
        problems.append(("batchId", "is required, an id of letters, digits and ._:@+=-"))
    if not isinstance(requests, Sequence) or isinstance(requests, str | bytes):
        problems.append(("requests", "is required and must be a list"))
    elif not 1 <= len(requests) <= MAX_BATCH_REQUESTS:
        problems.append(("requests", f"must hold 1 to {MAX_BATCH_REQUESTS}, got {len(requests)}"))
    for name, number in numbers.items():
        is_whole = isinstance(number, int) and not isinstance(number, bool) and number >= 0
        if not (is_whole or number is None):
            problems.append((name, "must be a whole number, 0 or more"))
    if problems:
        raise InvalidRequestError(tuple(problems))


def _with_batch(members: object, batch_id: str) -> object:
    """Give a batch's request its batchId; one that it carries itself must be the same."""
    if not batch_id or not isinstance(members, Mapping):
        return members
    own = members.get("batchId", members.get("batch_id", batch_id))
    if own != batch_id:
        raise InvalidRequestError((("batchId", f"differs from that of the message, {batch_id}"),))
    return {**{k: v for k, v in members.items() if k != "batch_id"}, "batchId": batch_id}


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A request on its way in; `problem` says what is wrong with it already, '' for nothing."""

    members: object
    entrance: Entrance
    problem: str = ""


def _unpack(members: object, entrance: Entrance) -> _Parcel:
    """Take the importId out of a request; that of `entrance` where it carries none."""
    if isinstance(members, InvalidRequestError):
        return _Parcel({}, entrance, str(members))
    if not isinstance(members, Mapping):
        return _Parcel(members, entrance)
    rest = dict(members)
    given = rest.pop("importId", rest.pop("import_id", None))
    if given is None:
        return _Parcel(rest, entrance)
    if problem := problem_of_import_id(given):
        return _Parcel(rest, entrance, f"importId: {problem}")
    return _Parcel(rest, replace(entrance, import_id=str(given), task_id=str(given)))


def _entrance(
    import_id: str, batch_id: str = "", since_ms: int = 0, not_before_ms: int = 0
) -> Entrance:
    return Entrance(
        import_id=import_id,
        task_id=import_id,
        batch_id=batch_id,
        recover_since_ms=since_ms,
        not_before_ms=not_before_ms,
    )


def _tasks_of(entrance: Entrance, admission: Admission) -> set[str]:
    """Return the tasks that end with an import that is over."""
    is_taken = admission.import_id != entrance.import_id
    if is_taken and admission.verdict is Verdict.REJECTED:
        return {admission.import_id}  # the id that was asked for is another import's
    # Known by its idempotencyKey, it is the end of another import that is told.
    return {admission.import_id, entrance.task_id}


def _is_task_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TASK_ID and value.isprintable()


def _cut(reason: str) -> str:
    """Return a reason as an error may repeat it."""
    return ascii(reason)[1:-1][: 4 * SHOWN_CHARACTERS]


def _decode(text: str) -> object:
    if not text:
        return InvalidRequestError((("request", "is missing: an entry has a field of that name"),))
    if len(text) > MAX_REQUEST_BYTES:
        return InvalidRequestError((("request", f"is longer than {MAX_REQUEST_BYTES} bytes"),))
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return InvalidRequestError((("request", "is not JSON"),))


def _batch_id_of(members: object) -> str:
    """Return the batchId of a request that is invalid otherwise, '' where that is invalid too."""
    known = members if isinstance(members, Mapping) else {}
    batch_id = known.get("batchId", known.get("batch_id"))
    is_valid = isinstance(batch_id, str) and IDENTIFIER_PATTERN.fullmatch(batch_id)
    return str(batch_id) if is_valid else ""


def _target_of(members: object) -> tuple[str, str]:
    return (
        _readable(members, "appId", "app_id"),
        _readable(members, "backendEnvironmentName", "backend_environment_name"),
    )


def _readable(members: object, *names: str) -> str:
    """Return what can be shown of a member of an invalid request, '-' for nothing."""
    for name in names:
        value = members.get(name) if isinstance(members, Mapping) else None
        if isinstance(value, str) and value:
            return "".join(c if c.isascii() and c.isprintable() else "?" for c in value[:64])
    return "-"
