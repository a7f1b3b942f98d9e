"""Writes records for the scripts, and reads the scripts' replies."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import structlog

from worker.domain.claims import Call, Claim
from worker.domain.facts import LaneFacts
from worker.domain.outcomes import (
    Admission,
    Ended,
    Envelope,
    InvalidRequest,
    Retried,
    RetryVerdict,
    ValidRequest,
    Verdict,
)
from worker.domain.recording import Recorded, Throttled
from worker.domain.requests import DEFAULT_OPERATION
from worker.domain.traces import TraceContext
from worker.store.records import import_of, packed
from worker.store.scripts import Reply

log = structlog.get_logger()


def milliseconds(seconds: float) -> int:
    """Return seconds as whole milliseconds, the scripts' unit."""
    return round(seconds * 1000)


def digest(key: str | None) -> str:
    """Return the digest of an idempotencyKey for the name of its Redis key; '' for none."""
    return sha256(key.encode()).hexdigest() if key else ""


def conflict_of(
    valid: ValidRequest, earlier: str, by_id: Sequence[Any], by_key: Sequence[Any]
) -> str:
    """Return the import that conflicts with a request; '' for none, as the script `admit` decides.

    `by_id` and `by_key` are state and fingerprint of the imports with its id and with its key;
    `earlier` is the id of the latter.
    """
    state, fingerprint = by_id
    if state:
        return "" if fingerprint == valid.request.fingerprint else valid.envelope.import_id
    state, fingerprint = by_key
    return earlier if state and fingerprint != valid.request.fingerprint else ""


def script_request(received: ValidRequest | InvalidRequest) -> dict[str, Any]:
    """Return a request as the script `admit` takes it."""
    envelope = received.envelope
    if isinstance(received, ValidRequest):
        fields, key = _fields_of_valid(received), received.request.idempotency_key
    else:
        fields, key = _fields_of_invalid(received), None
    return {
        "id": envelope.import_id,
        "task_id": envelope.task_id,
        "signature": envelope.signature,
        "idempotency": digest(key),
        "recover_since_ms": envelope.recover_since_ms,
        "fields": fields,
    }


def _fields_of_valid(received: ValidRequest) -> dict[str, str]:
    request, envelope, refusal = received.request, received.envelope, received.refusal
    batch_id = envelope.batch_id or request.batch_id
    return {
        "app_id": request.app_id,
        "backend_environment_name": request.backend_environment_name,
        "account": request.account,
        "region": received.region,
        "request_json": packed(request),
        "fingerprint": request.fingerprint,
        "priority": request.priority,
        **_operation_field(request.operation),
        **({"metadata": json.dumps(request.metadata)} if request.metadata else {}),
        **({"batch_id": batch_id} if batch_id else {}),
        **_wishes_of(envelope),
        **({"error": f"account: {refusal}", "refused": "1"} if refusal else {}),
    }


def _fields_of_invalid(received: InvalidRequest) -> dict[str, str]:
    envelope = received.envelope
    return {
        "app_id": received.target[0],
        "backend_environment_name": received.target[1],
        "account": received.lane[0],
        "region": received.lane[1],
        "error": received.error,
        **_operation_field(envelope.operation),
        **({"batch_id": envelope.batch_id} if envelope.batch_id else {}),
        **_wishes_of(envelope),
    }


def _operation_field(operation: str) -> dict[str, str]:
    """Return the record's field with the operation; no field for the default operation."""
    return {} if operation == DEFAULT_OPERATION else {"requested_operation": operation}


def _wishes_of(envelope: Envelope) -> dict[str, str]:
    """Return the record's fields with the options of the import's task, and with its trace."""
    wishes = {
        "not_before_ms": envelope.not_before_ms,
        "expires_at_ms": envelope.expires_at_ms,
        "ignores_result": int(envelope.ignores_result),
        **_trace_fields(envelope.trace),
    }
    return {name: str(value) for name, value in wishes.items() if value}


def _trace_fields(trace: TraceContext | None) -> dict[str, str]:
    if trace is None:
        return {}
    return {
        "traceparent": trace.traceparent,
        "tracestate": trace.state,
        "parent_span": trace.parent_id,
    }


def admissions_in(reply: Reply) -> list[Admission]:
    """Return the results of admitting requests."""
    return [_admission(each) for each in reply["admissions"]]


def _admission(reply: Reply) -> Admission:
    import_id, fields = reply["id"], reply["record"]
    item = import_of(import_id, fields) if fields else None
    return Admission(Verdict(reply["verdict"]), import_id, item, is_new=reply["is_new"])


def retried_in(reply: Reply) -> Retried:
    """Return the result of retrying an import."""
    return Retried(RetryVerdict(reply["verdict"]), reply["retry_id"])


def claims_in(reply: Reply, taken_at: float) -> tuple[list[Claim], float | None]:
    """Return the readable claims, and the seconds until more calls are due; None for never."""
    facts = {lane: LaneFacts.from_fields(fields) for lane, fields in reply["facts"].items()}
    found = (_readable_claim(claim, taken_at, facts) for claim in reply["claims"])
    wait_ms = reply["wait_ms"]
    return [claim for claim in found if claim], None if wait_ms < 0 else wait_ms / 1000


def recorded_in(reply: Reply, import_id: str) -> Recorded:
    """Return the result of recording an answer to a call for this import."""
    return Recorded(
        is_current=reply["held"],
        paused=reply["paused"],
        resumed=reply["resumed"],
        throttled=_throttled(reply["throttled"]),
        ended=_ended(import_id, reply) if reply.get("record") else None,
    )


def ended_in(reply: Reply) -> list[Ended]:
    """Return imports that are over, each with the tasks that end with it."""
    return [replace(_ended(each["id"], each), is_new=each["is_new"]) for each in reply["ended"]]


def _readable_claim(reply: Reply, taken_at: float, facts: Mapping[str, LaneFacts]) -> Claim | None:
    try:
        claim = _claim(reply, taken_at)
        return replace(claim, facts=facts.get(claim.item.lane, claim.facts))
    except (KeyError, ValueError) as error:
        # The lease ends, and the claim is made again: the record may have been fixed by then.
        log.error(  # noqa: TRY400 - what is wrong is the record, not the code
            "record.unreadable", import_id=reply["id"], error=repr(error)
        )
        return None


def _claim(reply: Reply, taken_at: float) -> Claim:
    return Claim(
        call=Call(reply["call"]),
        lease=reply["lease"],
        item=import_of(reply["id"], reply["record"]),
        age_seconds=reply["age_ms"] / 1000,
        overdue_seconds=reply["overdue_ms"] / 1000,
        grant=reply["grant"],
        taken_at=taken_at,
        probe=reply["probe"],
        earlier_jobs=frozenset(json.loads(reply["earlier_jobs"])),
    )


def _throttled(reply: Reply | None) -> Throttled | None:
    if reply is None:
        return None
    return Throttled(
        is_counted=reply["counted"],
        rate=reply.get("rate"),
        ceiling=reply.get("ceiling"),
        is_suspected=reply.get("suspected", False),
    )


def _ended(import_id: str, reply: Reply) -> Ended:
    return Ended(import_of(import_id, reply["record"]), reply["tasks"])
