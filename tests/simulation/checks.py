"""Which promises are broken at the end of a seed: the events against what really happened."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from tests.chaos.trial import TERMINAL, event_violations
from tests.simulation.aws import SimulatedAws
from tests.simulation.plan import BATCH, MISSING, SETTINGS, Plan, owner_of
from tests.simulation.server import CLOCK, clock_arguments
from tests.simulation.worker import CallLog, Grant
from tests.support import assert_nothing_left_behind
from worker.audit.auditor import audit
from worker.domain.outcomes import LaneLimits
from worker.domain.schedules import Schedule, Window
from worker.store.keys import IMPORT, LIMITER
from worker.store.records import record_of

MOMENT_SECONDS: Final = 0.1
"""Tolerance for ages, which are measured a moment earlier."""

LATE_SECONDS: Final = 60.0
"""How long after its deadline an import may end: a worker may freeze, its lane may pause."""

INSTANT: Final = timedelta(milliseconds=1)

ONCE: Final = ("import.accepted", "import.started")


class AuditedRedis(AsyncRedis):
    """A client whose scripts see `now` as the time."""

    now = 0.0

    def register_script(self, script: Any) -> Any:
        """Return a script that sees this time instead of the server's."""
        seconds, microseconds = clock_arguments(self.now)
        clock = f"{{ '{seconds}', '{microseconds}' }}"
        return super().register_script(str(script).replace(CLOCK, clock))


def violations_of(
    plan: Plan, redis: "Redis", aws: SimulatedAws, call_log: CallLog, import_ids: Sequence[str]
) -> list[str]:
    """Return every violation; every import must have ended."""
    events = events_of(redis)
    ends = [event for event in events if event["type"] in TERMINAL]
    now = aws.simulation.clock.now()
    jobs = aws.simulation.ledger.to_json(now)["jobs"]
    per_target = Counter(
        f"{one.request['appId']}/{one.request['backendEnvironmentName']}" for one in plan.deliveries
    )
    return [
        *event_violations(ends, jobs, import_ids, per_target),
        *_false_ends(plan, ends, jobs),
        *_wrong_deadlines(plan, ends, redis),
        *_duplicate_events(events),
        *_wrong_task_ends(ends, call_log),
        *_excess_grants(plan.limits, call_log),
        *_calls_without_grant(redis, aws),
        *_forbidden_starts(plan.schedule, call_log.starts[BATCH]),
    ]


def events_of(redis: "Redis") -> list[dict[str, Any]]:
    """Return all events."""
    entries: Any = redis.xrange("imports:events")
    return [json.loads(fields["event"]) for _, fields in entries]


def _false_ends(
    plan: Plan, ends: list[dict[str, Any]], jobs: list[dict[str, Any]]
) -> Iterator[str]:
    owners = {job["jobId"]: owner_of(job["request"]) for job in jobs}
    started = Counter(owners.values())
    missing = {d.import_id for d in plan.deliveries if d.request["appId"] == MISSING}
    for owner, number in started.items():
        if number > 1:
            yield f"{owner} has started {number} jobs"
    for end in (event["data"] for event in ends):
        import_id, outcome, job_id = end["importId"], end["outcome"], end["jobId"]
        if job_id and owners.get(job_id, import_id) != import_id:
            yield f"{import_id} names the job of {owners[job_id]}"
        if outcome == "succeeded" and not job_id:
            yield f"{import_id} succeeded without a job"
        if outcome in {"failed", "rejected"} and not job_id and started[import_id]:
            yield f"{import_id} {outcome} without a job, and has started one: {end['error']}"
        if outcome == "rejected" and import_id not in missing:
            yield f"{import_id} is rejected: {end['error']}"
        if outcome == "failed" and not job_id and end["attempts"] < SETTINGS["max_attempts"]:
            yield f"{import_id} failed after {end['attempts']} attempts: {end['error']}"


def _wrong_deadlines(plan: Plan, ends: list[dict[str, Any]], redis: "Redis") -> Iterator[str]:
    deadlines = {
        one.import_id: one.request.get("deadlineSeconds", SETTINGS["deadline_seconds"])
        for one in plan.deliveries
    }
    for import_id, kind in ((end["data"]["importId"], end["type"]) for end in ends):
        fields: Any = redis.hgetall(IMPORT.name + import_id)
        record = record_of(fields)
        if "first_start_at_ms" not in record:
            continue
        taken = (float(record["finished_at_ms"]) - float(record["first_start_at_ms"])) / 1000
        left = deadlines[import_id] - taken
        if kind == "import.timed_out" and left > MOMENT_SECONDS:
            yield f"{import_id} timed out after {taken:.1f} s"
        # Without a job, its next start may have waited for its batch's schedule.
        waits_for_schedule = plan.schedule and record.get("batch_id") == BATCH
        if left < -LATE_SECONDS and ("job_id" in record or not waits_for_schedule):
            yield f"{import_id} ended {-left:.1f} s after its deadline"


def _duplicate_events(events: list[dict[str, Any]]) -> Iterator[str]:
    for event_id, times in Counter(event["id"] for event in events).items():
        if times > 1 and not event_id.startswith("lane"):
            yield f"event {event_id} was appended {times} times"
    reported = Counter((e["type"], e["data"]["importId"]) for e in events if e["type"] in ONCE)
    for (kind, import_id), times in reported.items():
        if times > 1:
            yield f"{kind} of {import_id} was reported {times} times"


def _wrong_task_ends(ends: list[dict[str, Any]], call_log: CallLog) -> Iterator[str]:
    for end in (event["data"] for event in ends):
        reported = call_log.reported[end["importId"]]
        if reported != {end["outcome"]}:
            import_id, outcome = end["importId"], end["outcome"]
            yield f"the task of {import_id} was reported as {sorted(reported)}, not {outcome}"


def _excess_grants(limits: LaneLimits, call_log: CallLog) -> Iterator[str]:
    """Check grants against the known limits: a full bucket and its rate."""
    known = {
        "start": (limits.start_rate, limits.start_burst),
        "poll": (limits.poll_rate, limits.poll_burst),
    }
    for (lane, kind), grants in call_log.grants.items():
        if len({grant.number for grant in grants}) < len(grants):
            yield f"{lane} has granted a {kind} twice"
        rate, burst = known[kind]
        if rate and burst and (excess := _excess(grants, rate, burst)) > 0:
            yield f"{lane} has granted {excess:.1f} {kind} calls more than {rate:g}/s allow"


def _excess(grants: Sequence[Grant], rate: float, burst: float) -> float:
    tokens, at, excess = burst, 0.0, 0.0
    for grant in sorted(grants, key=lambda grant: (grant.at, grant.number)):
        tokens = min(burst, tokens + (grant.at - at) / 1000 * rate) - 1
        at, excess = grant.at, max(excess, -tokens)
    return excess if excess > 1e-3 else 0.0


def _calls_without_grant(redis: "Redis", aws: SimulatedAws) -> Iterator[str]:
    for (lane, kind), sent in aws.sent.items():
        name = "start" if kind == "starts" else "poll"
        granted = float(redis.hget(f"{LIMITER.name}{lane}:{name}", "granted") or 0)
        if sent > granted:
            yield f"{lane} was sent {sent} {kind} for {granted:g} grants"


def _forbidden_starts(schedule: Schedule, starts: Sequence[float]) -> Iterator[str]:
    """Check when the batch's starts were claimed against its schedule."""
    for at in sorted(starts):
        moment = datetime.fromtimestamp(at / 1000, UTC)
        if at < (schedule.start_at_ms or 0):
            yield f"the batch starts an import at {moment}, before its time"
        if schedule.window and not Window.parse(schedule.window).openings(moment, moment + INSTANT):
            yield f"the batch starts an import at {moment}, outside its window"
    if most := schedule.max_per_hour:
        burst = 1 + most // 60
        grants = [Grant(number=n, at=at) for n, at in enumerate(sorted(starts))]
        if _excess(grants, (most + 1 - burst) / 3600, burst) > 0:
            yield f"the batch starts more than {most} imports an hour"


def left_behind(redis: "Redis") -> Iterator[str]:
    """Return what remains in the store without being needed."""
    try:
        assert_nothing_left_behind(redis)
    except AssertionError as error:
        yield f"left behind: {error}"


def broken_promises(url: str, now: float) -> list[str]:
    """Return what `amplify-import audit` finds wrong, `now` seconds after the start."""
    return asyncio.run(_audited(url, now))


async def _audited(url: str, now: float) -> list[str]:
    client = cast("AuditedRedis", AuditedRedis.from_url(url, decode_responses=True))
    client.now = now
    async with client as redis:
        report = await audit(
            redis,
            lease_seconds=SETTINGS["lease_seconds"],
            retention_seconds=SETTINGS["retention_seconds"],
            pause_seconds=0,
        )
    return [f"{found.promise}: {found.subject}: {found.sentence}" for found in report.violations]
