"""The rules for targets, batches, lanes and keys. Each yields a violation where it is broken.

The rules are pure functions. Their `facts` come from the scripts `audit_*`, which read all facts of
a subject at one moment.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.audit.journal import Journal
from worker.audit.promises import Promise, Violation, key_of, overdue
from worker.domain.states import TERMINAL, State
from worker.store.keys import BATCH, MEMBERS, TARGET

GONE: Final = -2
"""What PTTL returns for a key that does not exist."""


def check_target(target: str, facts: Mapping[str, Any]) -> Iterator[Violation]:
    """Check that an import that may hold the target does, or that the target's key expires."""
    if "holder" not in facts:
        if facts["pttl"] == -1:
            sentence = "no import holds it, but this key has no expiry"
            yield Violation(Promise.RETENTION, TARGET.name + target, sentence)
        return
    for sentence in _unfit_holder(target, facts):
        yield Violation(Promise.TARGET, target, sentence)


def _unfit_holder(target: str, facts: Mapping[str, Any]) -> Iterator[str]:
    holder, record = facts["holder"], facts["record"]
    state = record.get("state")
    if state is None:
        yield f"it is held by import {holder}, which has no record"
    elif state == State.WAITING and not float(record.get("doubts") or 0):
        yield f"it is held by import {holder}, which is waiting to start"
    elif state in TERMINAL:
        yield f"it is held by import {holder}, which has ended as {state}"
    elif _target_of(record) != target:
        yield f"it is held by import {holder}, which has another target"
    if facts["pttl"] >= 0:
        yield f"it is held by import {holder}, but its key is set to expire"


def _target_of(record: Mapping[str, str]) -> str:
    names = ("account", "region", "app_id", "backend_environment_name")
    return "/".join(record.get(name, "") for name in names)


def check_batch(batch_id: str, facts: Mapping[str, Any], journal: Journal) -> Iterator[Violation]:
    """Check a batch: its counts, its completion, its pause, and the expiry of its keys."""
    for sentence in _wrong_batch(batch_id, facts, journal):
        yield Violation(Promise.BATCH, batch_id, sentence)
    over = _count(facts["batch"], *TERMINAL) >= _count(facts["batch"], "accepted")
    for key, pttl in ((BATCH, facts["pttl"]), (MEMBERS, facts["members_pttl"])):
        if over and pttl == -1:
            sentence = "the batch has ended, but this key has no expiry"
            yield Violation(Promise.RETENTION, key.name + batch_id, sentence)
        elif not over and pttl >= 0:
            sentence = "the batch has not ended, but this key is set to expire"
            yield Violation(Promise.RETENTION, key.name + batch_id, sentence)


def _wrong_batch(batch_id: str, facts: Mapping[str, Any], journal: Journal) -> Iterator[str]:
    batch, states = facts["batch"], facts["states"]
    for state in State:
        counted, there = _count(batch, state), states.get(state, 0)
        # The records of ended imports expire one by one, but the batch still counts these imports.
        if counted < there or (counted > there and state not in TERMINAL):
            yield f"its count for {state} is {counted}, but {there} of its imports are {state}"
    accepted, known = _count(batch, "accepted"), _count(batch, "known")
    if (counted := _count(batch, *State)) != accepted:
        yield f"{accepted} imports were accepted, but its counts by state add up to {counted}"
    if facts["members"] > accepted + known:
        yield f"it has {facts['members']} members, but counts only {accepted + known}"
    yield from _wrong_completion(batch_id, facts, journal)
    yield from _wrong_pause(facts)
    # A batch without a creation time was written by an earlier release, which had no index.
    if "created_at_ms" in batch and not facts["is_indexed"]:
        yield "the index of batches does not list it"


def _wrong_completion(batch_id: str, facts: Mapping[str, Any], journal: Journal) -> Iterator[str]:
    batch = facts["batch"]
    total = _count(batch, "accepted", "known")
    ended = _count(batch, *TERMINAL, "known")
    is_over = 0 < total <= ended and total >= _count(batch, "expected")
    completed_ms = _count(batch, "completed_at_ms")
    if is_over and not completed_ms:
        yield f"all its {total} imports have ended, but it is not completed"
    if completed_ms and not is_over:
        announced = max(total, _count(batch, "expected"))
        yield f"it is completed, but {ended} of its {announced} imports have ended"
    emitted = journal.has_event(f"{batch_id}/completed/{total}", facts["now_ms"])
    if completed_ms and not emitted and not journal.may_be_trimmed(completed_ms):
        yield f"it is completed, but batch.completed was never emitted for {total} imports"
    if emitted and not is_over:
        yield f"batch.completed was emitted for {total} imports, but {ended} have ended"


def _wrong_pause(facts: Mapping[str, Any]) -> Iterator[str]:
    batch = facts["batch"]
    gate, reason = batch.get("gate"), batch.get("stopped_reason")
    if facts["held"] and not (gate or facts["is_released"] or facts["is_awaited"]):
        yield f"it is not paused, but {facts['held']} of its imports are held back forever"
    if gate == "stopped" and reason is None:
        yield "it is paused, but the reason is missing"
    elif gate != "stopped" and reason is not None:
        yield f"it is not paused, but has a reason for a pause: {reason!r}"
    if gate == "canary" and not _count(batch, "canary"):
        yield "it waits for its canaries, but has none"
    elif gate == "canary" and facts["held"] and _count(batch, "judged") >= _count(batch, "canary"):
        yield "its canaries have ended, but its imports are still held back"


def _count(batch: Mapping[str, str], *names: str) -> int:
    return sum(int(float(batch.get(name) or 0)) for name in names)


def check_lane(lane: str, facts: Mapping[str, Any], latest_ms: float) -> Iterator[Violation]:
    """Check that a lane with work is scheduled, and that its due time is not before `latest_ms`."""
    due = facts.get("due")
    if not facts["has_work"]:
        return
    if due is None:
        sentence = "it has work, but no worker is scheduled to look at it"
        yield Violation(Promise.LANE, lane, sentence)
    elif due < latest_ms and not facts["paused"]:
        yield overdue(lane, "it was due", due)


def check_key(name: str, pttl: int, state: str) -> Iterator[Violation]:
    """Check that the catalog has the key, and that the key expires when its import has ended.

    `pttl` is in milliseconds, as PTTL returns it. `state` is the import's; '' if it has no record.
    """
    key = key_of(name)
    if key is None and pttl != GONE:
        yield Violation(Promise.RETENTION, name, "this version does not know this key")
    elif pttl == -1 and (not state or state in TERMINAL):
        sentence = "its import has ended or has no record, but this key has no expiry"
        yield Violation(Promise.RETENTION, name, sentence)
