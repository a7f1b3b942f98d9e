"""Submission: admission for callers that wait for the verdict.

All requests of a call are admitted, or none. What can't be admitted raises an error that names the
members, and leaves no import behind.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar
from uuid import uuid4

from worker.domain.batches import BatchMessage
from worker.domain.events import EventType
from worker.domain.outcomes import (
    Admission,
    Envelope,
    InvalidRequest,
    ValidRequest,
    Verdict,
)
from worker.domain.requests import derive_import_id
from worker.domain.submissions import (
    ConflictError,
    InvalidSubmissionError,
    Problem,
    SubmissionError,
)
from worker.domain.traces import TraceContext
from worker.engine.admit import ADMITTED_TOGETHER
from worker.engine.checking import Parcel, RequestCheck
from worker.engine.ports import SubmissionStore
from worker.engine.tracing import UNTRACED, Tracer

T = TypeVar("T")

IS_TAKEN = "belongs to import {}, which has other members"
IS_TWICE = "is that of request {}, which has other members"


class Submitter:
    """Validates requests and admits them to the store. Every method is safe to repeat.

    All methods raise InvalidSubmissionError and ConflictError, with the position of each request,
    and StoreUnavailableError. If the store fails midway, some of the requests may be admitted.
    """

    def __init__(
        self, check: RequestCheck, store: SubmissionStore, tracer: Tracer = UNTRACED
    ) -> None:
        self._check = check
        self._store = store
        self._tracer = tracer

    async def submit(
        self, requests: Sequence[object], key: str = "", trace: TraceContext | None = None
    ) -> list[str]:
        """Admit requests; return their import ids.

        The id of a request without an importId follows from its idempotencyKey, or from `key` and
        its position, or is random. If another producer has used its idempotencyKey, the id is that
        of the earlier import.
        """
        ids = [_id_for(members, key, position) for position, members in enumerate(requests)]
        valid = await self._valid(
            [
                self._check.unpack(members, Envelope(import_id=each, task_id=each, trace=trace))
                for members, each in zip(requests, ids, strict=True)
            ]
        )
        return await self._admit(valid)

    async def submit_batch(self, messages: Sequence[BatchMessage]) -> list[str]:
        """Admit the requests of a batch's messages; return their import ids."""
        valid = await self._valid(list(chain.from_iterable(map(self._parcels_of, messages))))
        for each in _announcements(messages):
            await self._store.announce_batch(each.batch_id, each.expected, each.rule, each.schedule)
        return await self._admit(valid)

    def _parcels_of(self, message: BatchMessage) -> Iterable[Parcel]:
        for position, members in enumerate(message.requests, message.first):
            import_id = derive_import_id(message.batch_id, position)
            envelope = Envelope(import_id=import_id, task_id=import_id, batch_id=message.batch_id)
            yield self._check.unpack(members, envelope)

    async def _valid(self, parcels: Sequence[Parcel]) -> list[ValidRequest]:
        """Return what parcels hold. Raises an error if any of them can't be admitted."""
        checked: list[ValidRequest | InvalidRequest] = []
        for some in _groups(parcels):
            checked += await self._check.check_all(some)
        problems = [
            Problem(member, message, position)
            for position, each in enumerate(checked)
            for member, message in _problems_of(each)
        ]
        valid = [each for each in checked if isinstance(each, ValidRequest)]
        _raise_if(problems or _repeated(valid), InvalidSubmissionError)
        others: list[str] = []
        for group in _groups(valid):
            others += await self._store.conflicts(group)
        _raise_if(_taken(valid, others), ConflictError)
        return valid

    async def _admit(self, valid: Sequence[ValidRequest]) -> list[str]:
        admissions: list[Admission] = []
        for group in _groups(valid):
            admissions += await self._admit_together(group)
        _raise_if(_overtaken(valid, admissions), ConflictError)
        return [each.import_id for each in admissions]

    async def _admit_together(self, valid: Sequence[ValidRequest]) -> list[Admission]:
        traced = [_with_trace(each, self._tracer) for each in valid]
        began_ns = time.time_ns()
        admissions = await self._store.admit_all(traced)
        for each, admission in zip(traced, admissions, strict=True):
            if admission.verdict is Verdict.ACCEPTED:
                trace = each.envelope.trace
                self._tracer.appended(admission.import_id, trace, EventType.ACCEPTED, began_ns)
        return admissions


def _groups(items: Sequence[T]) -> Iterable[Sequence[T]]:
    """Return parts of a list, after each of which others may use the event loop and the store."""
    starts = range(0, len(items), ADMITTED_TOGETHER)
    return (items[start : start + ADMITTED_TOGETHER] for start in starts)


def _with_trace(valid: ValidRequest, tracer: Tracer) -> ValidRequest:
    """Give a request the context of its import in place of the producer's."""
    envelope = valid.envelope
    trace = tracer.begin(envelope.import_id, envelope.trace)
    return replace(valid, envelope=replace(envelope, trace=trace))


def _announcements(messages: Sequence[BatchMessage]) -> Iterable[BatchMessage]:
    """Return messages that tell the store all that it must know of their batches."""
    return {(each.batch_id, each.expected): each for each in reversed(messages)}.values()


def _problems_of(checked: ValidRequest | InvalidRequest) -> Iterable[tuple[str, str]]:
    if isinstance(checked, InvalidRequest):
        return checked.problems
    return (("account", checked.refusal),) if checked.refusal else ()


def _repeated(valid: Sequence[ValidRequest]) -> list[Problem]:
    """Return where an id or a key appears twice, with different requests."""
    problems: list[Problem] = []
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    for position, each in enumerate(valid):
        key = each.request.idempotency_key
        names = [("importId", each.envelope.import_id), *([("idempotencyKey", key)] if key else [])]
        for name in names:
            first, fingerprint = seen.setdefault(name, (position, each.request.fingerprint))
            if fingerprint != each.request.fingerprint:
                problems.append(Problem(name[0], IS_TWICE.format(first), position))
    return problems


def _taken(valid: Sequence[ValidRequest], others: Sequence[str]) -> list[Problem]:
    """Return the problems of requests whose id or key belongs to another import, '' for none."""
    return [
        Problem(_name_of(each, other), IS_TAKEN.format(other), position)
        for position, (each, other) in enumerate(zip(valid, others, strict=True))
        if other
    ]


def _overtaken(valid: Sequence[ValidRequest], admissions: Sequence[Admission]) -> list[Problem]:
    """Return the problems of requests whose id or key another producer has used meanwhile.

    If it was the key, the request has become a rejected import, as at the other entry points.
    """
    problems = []
    for position, (each, admission) in enumerate(zip(valid, admissions, strict=True)):
        if admission.verdict is Verdict.REUSED:
            other = admission.import_id
            problems.append(Problem(_name_of(each, other), IS_TAKEN.format(other), position))
        elif admission.verdict is Verdict.REJECTED and admission.item:
            member, _, message = admission.item.error.partition(": ")
            problems.append(Problem(member, message, position))
    return problems


def _name_of(valid: ValidRequest, other: str) -> str:
    """Return the member by which a request claims the import `other`."""
    key = valid.request.idempotency_key
    is_by_id = other == valid.envelope.import_id and not (key and other == _id_of_key(key))
    return "importId" if is_by_id else "idempotencyKey"


def _id_for(members: object, key: str, position: int) -> str:
    """Return the import id of a request that has none of its own."""
    known = members if isinstance(members, Mapping) else {}
    own = known.get("idempotencyKey", known.get("idempotency_key"))
    if isinstance(own, str) and own:
        return _id_of_key(own)
    return derive_import_id(f"list {key}", position) if key else str(uuid4())


def _id_of_key(key: str) -> str:
    # No batchId has a blank, so that this is the id of no request of a batch.
    return derive_import_id("idempotency key", ascii(key))


def _raise_if(problems: Sequence[Problem], error: type[SubmissionError]) -> None:
    if problems:
        raise error(tuple(problems))
