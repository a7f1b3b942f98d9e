"""Admission: the same for all entry points."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from worker.domain.batches import BatchMessage
from worker.domain.events import EventType
from worker.domain.outcomes import (
    Admission,
    Ended,
    Envelope,
    InvalidRequest,
    ValidRequest,
    Verdict,
)
from worker.domain.requests import (
    IDENTIFIER_PATTERN,
    derive_import_id,
)
from worker.domain.traces import TraceContext
from worker.engine.accounts import AccountCheck
from worker.engine.checking import Parcel, RequestCheck
from worker.engine.log import log_end
from worker.engine.observer import NOBODY, Observer
from worker.engine.ports import Accounts, AdmissionStore, Announcer, Regions, Requests
from worker.engine.reading import (
    cut,
    decode,
    import_id_of,
    is_task_id,
    target_of,
)
from worker.engine.tracing import UNTRACED, Tracer

log = structlog.get_logger()

ADMITTED_TOGETHER: Final = 50
"""How many requests are sent to the store in one call: it blocks the server for about 4 ms."""

_TWICE: Final = "importId: appears twice in this message"


class Admitter:
    """Validates requests and admits them to the store. Every method is safe to repeat."""

    def __init__(
        self,
        requests: Requests,
        store: AdmissionStore,
        accounts: Accounts,
        regions: Regions,
        announcer: Announcer,
        observer: Observer = NOBODY,
        tracer: Tracer = UNTRACED,
    ) -> None:
        self._store = store
        self._check = RequestCheck(requests, AccountCheck(accounts, store), regions)
        self._announcer = announcer
        self._observer = observer
        self._tracer = tracer
        # However many messages come in at once, the event loop is free after each group.
        self._turn = asyncio.Lock()

    async def admit_tasks(self, parcels: Sequence[Parcel]) -> list[Admission]:
        """Admit the requests of up to ADMITTED_TOGETHER tasks.

        Each invalid request becomes a rejected import; its error names each wrong member.
        """
        return await self._admit_together(parcels)

    async def reject(self, envelope: Envelope, error: str) -> Admission:
        """Record an invalid message of a task as an import that ended `rejected`."""
        (admission,) = await self._admit_together([Parcel({}, envelope, error)])
        return admission

    async def admit_batch(
        self, message: BatchMessage, *, not_before_ms: int = 0, trace: TraceContext | None = None
    ) -> list[Admission]:
        """Admit the requests of a batch message.

        A request may carry its own `importId`, and its own trace instead of the message's. Each
        invalid request becomes a rejected import. No import starts earlier than `not_before_ms`
        (since the epoch).
        """
        batch_id, since_ms = message.batch_id, message.recover_since_ms
        await self._store.announce_batch(batch_id, message.expected, message.rule, message.schedule)
        parcels: dict[str, Parcel] = {}
        for position, members in enumerate(message.requests, message.first):
            import_id = import_id_of(members) or derive_import_id(batch_id, position)
            envelope = _envelope(import_id, batch_id, since_ms, not_before_ms, trace)
            parcel = self._check.unpack(members, envelope)
            if import_id in parcels:
                own_id = derive_import_id(batch_id, position)
                parcel = Parcel(members, _envelope(own_id, batch_id, trace=trace), _TWICE)
            parcels[parcel.envelope.import_id] = parcel
        return await self._admit_all(list(parcels.values()))

    async def admit_entries(
        self, entries: Sequence[tuple[str, str, TraceContext | None]], origin: str = "stream"
    ) -> list[Admission]:
        """Admit entries of a stream or messages of a queue, given as id, text and trace.

        An id is unique within its `origin`. Invalid entries become rejected imports.
        """
        return await self._admit_all(
            [
                self._check.unpack(
                    decode(text), _envelope(derive_import_id(origin, entry), trace=trace)
                )
                for entry, text, trace in entries
            ]
        )

    async def reject_messages(self, texts: Sequence[str]) -> list[Admission]:
        """Record texts that are no Celery messages, each as a rejected import."""
        ids = [derive_import_id("message", text) for text in texts]
        problem = "message: is no Celery message"
        return await self._admit_all([Parcel({}, _envelope(each), problem) for each in ids])

    async def reject_message(
        self,
        task_id: object,
        tag: str,
        reason: str,
        *,
        ignores_result: bool = False,
        trace: TraceContext | None = None,
    ) -> Admission:
        """Record a Celery message that can't be run as a rejected import, and end its task.

        The import has its task's id if that is a valid import id. `tag` distinguishes messages
        without a task id.
        """
        known_as = task_id if is_task_id(task_id) else ""
        is_id = IDENTIFIER_PATTERN.fullmatch(known_as)
        import_id = known_as if is_id else derive_import_id("message", known_as or tag)
        problem = f"message: can't be run: {cut(reason)}"
        envelope = replace(
            _envelope(import_id, trace=trace),
            task_id=known_as or import_id,
            ignores_result=ignores_result,
        )
        (admission,) = await self._admit_together([Parcel({}, envelope, problem)])
        return admission

    async def _admit_all(self, parcels: Sequence[Parcel]) -> list[Admission]:
        """Admit requests for which no task of the producer waits, in their order."""
        admissions: list[Admission] = []
        for start in range(0, len(parcels), ADMITTED_TOGETHER):
            admissions += await self._admit_together(parcels[start : start + ADMITTED_TOGETHER])
        return admissions

    async def _admit_together(self, parcels: Sequence[Parcel]) -> list[Admission]:
        # Before admission, because afterwards an import may run, and even end, at any time.
        await self._announcer.waiting(
            [parcel.envelope for parcel in parcels],
            ["/".join(target_of(parcel.members)) for parcel in parcels],
        )
        async with self._turn:
            admissions = await self._store_all(await self._check.check_all(parcels))
        for parcel, admission in zip(parcels, admissions, strict=True):
            if admission.item and admission.item.is_terminal:
                tasks = _tasks_of(parcel.envelope, admission)
                await self._announcer.ended(Ended(admission.item, tasks))
        return admissions

    async def _store_all(
        self, received: Sequence[ValidRequest | InvalidRequest]
    ) -> list[Admission]:
        """Write requests to the store in one step.

        If an id belongs to another import, and no task of the producer waits for the request, the
        request is rejected under an id of its own, so that it leaves a trace.
        """
        traced = [self._traced(each) for each in received]
        began_ns = time.time_ns()
        admissions = await self._store.admit_all(traced)
        for each, admission in zip(traced, admissions, strict=True):
            self._note(each, admission)
            self._trace(each.envelope, admission, began_ns)
        taken = [
            n
            for n, admission in enumerate(admissions)
            if admission.verdict is Verdict.REUSED and not received[n].envelope.signature
        ]
        if taken:
            rejected = await self._store_all([_under_own_id(received[n]) for n in taken])
            for n, admission in zip(taken, rejected, strict=True):
                admissions[n] = admission
        return admissions

    def _traced(self, received: ValidRequest | InvalidRequest) -> ValidRequest | InvalidRequest:
        """Give a request the context of its import in place of the producer's."""
        envelope = received.envelope
        trace = self._tracer.begin(envelope.import_id, envelope.trace)
        if trace is envelope.trace:
            return received
        return replace(received, envelope=replace(envelope, trace=trace))

    def _trace(self, envelope: Envelope, admission: Admission, began_ns: int) -> None:
        item = admission.item
        if admission.verdict is Verdict.ACCEPTED:
            self._tracer.appended(admission.import_id, envelope.trace, EventType.ACCEPTED, began_ns)
        elif admission.verdict is Verdict.REJECTED and item:
            self._tracer.appended(item.id, item.trace, EventType.REJECTED, began_ns)
            self._tracer.ended(item)
        elif admission.is_new and item:
            self._tracer.ended(item)

    def _note(self, received: ValidRequest | InvalidRequest, admission: Admission) -> None:
        """Count, show and log what became of a request."""
        envelope = received.envelope
        wanted = received.request if isinstance(received, ValidRequest) else envelope
        self._observer.admitted(admission.verdict, wanted.operation)
        if admission.verdict is Verdict.REJECTED and admission.item:
            log_end(admission.item, logging.WARNING)
        elif isinstance(received, ValidRequest):
            request = received.request
            target = f"{request.app_id}/{request.backend_environment_name}"
            trace = admission.item.trace if admission.item else envelope.trace
            lane = f"{request.account}/{received.region}"
            if admission.is_new and admission.item:
                log_end(admission.item)
            if admission.verdict is Verdict.ACCEPTED or admission.import_id != envelope.task_id:
                self._announcer.accepted(envelope, target, lane, request.batch_id or "")
            log.info(
                f"import.{admission.verdict}",
                import_id=admission.import_id,
                target=target,
                lane=lane,
                batch_id=request.batch_id,
                **(trace.for_logs() if trace else {}),
            )


def _under_own_id(received: ValidRequest | InvalidRequest) -> InvalidRequest:
    """Return a request whose import id is taken as an invalid one with an id of its own.

    The usual cause is a batch message without its `offset`.
    """
    envelope, taken = received.envelope, received.envelope.import_id
    if isinstance(received, InvalidRequest):
        own = derive_import_id(taken, received.error)
        return replace(received, envelope=replace(envelope, import_id=own, task_id=own))
    request = received.request
    own = derive_import_id(taken, request.fingerprint)
    error = f"importId: {taken} is another request already"
    if envelope.batch_id:
        error += "; give each message of a batch its offset"
    return InvalidRequest(
        replace(envelope, import_id=own, task_id=own),
        (request.app_id, request.backend_environment_name),
        (request.account, received.region),
        error,
    )


def _envelope(
    import_id: str,
    batch_id: str = "",
    since_ms: int = 0,
    not_before_ms: int = 0,
    trace: TraceContext | None = None,
) -> Envelope:
    return Envelope(
        import_id=import_id,
        task_id=import_id,
        batch_id=batch_id,
        recover_since_ms=since_ms,
        not_before_ms=not_before_ms,
        trace=trace,
    )


def _tasks_of(envelope: Envelope, admission: Admission) -> dict[str, str]:
    """Return the tasks that end with an import that is over, with their signatures."""
    if envelope.signature:
        return {envelope.task_id: envelope.signature}
    is_taken = admission.import_id != envelope.import_id
    if is_taken and admission.verdict is Verdict.REJECTED:
        return {admission.import_id: ""}  # the requested id belongs to another import
    # If the idempotencyKey was known, the task ends with that earlier import.
    return dict.fromkeys((admission.import_id, envelope.task_id), "")
