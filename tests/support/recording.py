"""Record answers as a worker would, through functions named after their effect."""

from collections.abc import Sequence
from dataclasses import replace

from worker.domain.answers import Job
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.decisions import (
    UNKNOWN_OUTCOME,
    End,
    NoteLate,
    PauseLane,
    PollAgain,
    Reconcile,
    Requeue,
    Retry,
    Run,
    Start,
    Throttle,
    Undecided,
    WaitBehind,
)
from worker.domain.facts import LaneFacts
from worker.domain.imports import Import
from worker.domain.outcomes import Ended
from worker.domain.recording import Observed
from worker.domain.states import State
from worker.store.store import ImportStore


async def run(
    store: ImportStore,
    claim: Claim,
    *,
    job_id: str,
    operation: str = "",
    status: str = "",
    delay_seconds: float = 0,
    created_seconds_ago: float = 0,
) -> bool:
    job = Job(
        job_id=job_id, operation=operation, status=status, created_seconds_ago=created_seconds_ago
    )
    return (await store.record(claim, Run(job, delay_seconds))).is_current


async def finish(
    store: ImportStore,
    claim: Claim,
    state: State,
    *,
    error: str = "",
    job_id: str = "",
    operation: str = "",
    status: str = "",
) -> Ended | None:
    job = Job(job_id=job_id, operation=operation, status=status)
    return (await store.record(claim, End(state, error, job))).ended


async def requeue(store: ImportStore, claim: Claim) -> bool:
    return (await store.record(claim, Requeue())).is_current


async def not_started(store: ImportStore, claim: Claim, listed_jobs: Sequence[str] | None) -> bool:
    jobs = None if listed_jobs is None else tuple(listed_jobs)
    return (await store.record(claim, Start(jobs))).is_current


async def retry(
    store: ImportStore, claim: Claim, *, delay_seconds: float = 0, error: str = ""
) -> bool:
    return (await store.record(claim, Retry(delay_seconds, error))).is_current


async def wait_behind(
    store: ImportStore, claim: Claim, *, delay_seconds: float = 0, error: str = ""
) -> bool:
    return (await store.record(claim, WaitBehind(delay_seconds, error))).is_current


async def poll_again(
    store: ImportStore,
    claim: Claim,
    *,
    delay_seconds: float = 0,
    status: str = "",
    stuck: bool = False,
) -> bool:
    return (
        await store.record(claim, PollAgain(Job(status=status), delay_seconds, stuck))
    ).is_current


async def note_late(
    store: ImportStore, claim: Claim, *, outcome: str, status: str, error: str
) -> bool:
    known = None if outcome == UNKNOWN_OUTCOME else State(outcome)
    return (await store.record(claim, NoteLate(known, Job(status=status), error))).is_current


async def doubt(
    store: ImportStore,
    claim: Claim,
    doubt: Doubt,
    *,
    error: str,
    delay_seconds: float = 0,
    in_outage: bool = False,
    undecided: str = "",
    unclear_jobs: Sequence[str] = (),
) -> bool:
    """Record an unknown outcome. With `in_outage`, the lane has so many failures that it pauses."""
    observed = Observed(failure=1, reason=error, pause_at=1 if in_outage else None)
    if undecided:
        claim = replace(claim, item=replace(claim.item, doubt_error=error))
        left = Undecided(doubt, delay_seconds, undecided, tuple(unclear_jobs))
        return (await store.record(claim, left, observed)).is_current
    return (await store.record(claim, Reconcile(doubt, delay_seconds, error), observed)).is_current


async def throttle(
    store: ImportStore,
    claim: Claim,
    *,
    retry_after_seconds: float | None = None,
    limit_type: str = "",
    concurrent: bool = False,
) -> tuple[bool, str]:
    """Record a 429; return whether it counts, and which limit applies from then on."""
    decision = Throttle(retry_after_seconds, limit_type, concurrent)
    throttled = (await store.record(claim, decision)).throttled
    assert throttled is not None
    return throttled.is_counted, throttled.kept


async def pause_lane(
    store: ImportStore,
    lane: str,
    reason: str,
    *,
    probe: bool = False,
    delay_seconds: float = 0,
    delay_max_seconds: float = 60,
) -> bool:
    """Record refused credentials for a lost claim; return whether that paused the lane."""
    observed = Observed(probe_seconds=delay_seconds, probe_max_seconds=delay_max_seconds)
    claim = replace(_lost_claim(lane), probe=probe)
    return (await store.record(claim, PauseLane(reason), observed)).paused


async def resume_lane(store: ImportStore, lane: str) -> bool:
    """Record a successful probe for a lost claim; return whether that resumed the lane."""
    observed = Observed(probe_answered=True)
    return (await store.record(_lost_claim(lane), Requeue(), observed)).resumed


async def learn(store: ImportStore, lane: str, facts: LaneFacts) -> None:
    """Let a lane learn facts about AWS."""
    await store.record(_lost_claim(lane), Requeue(), Observed(facts=facts))


async def count_failure(store: ImportStore, lane: str, weight: int) -> None:
    """Record a call without an answer."""
    await store.record(_lost_claim(lane), Requeue(), Observed(failure=weight))


def _lost_claim(lane: str) -> Claim:
    account, region = lane.split("/")
    fields = {"state": State.RUNNING, "account": account, "region": region}
    return Claim(
        call=Call.POLL, lease="lost", item=Import.from_fields("nobody", fields), age_seconds=0
    )
