"""What a seed determines in advance: requests, workers, faults, and facts of the API."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.chaos.undocumented_facts import FACT_SETS
from tests.simulation.loop import EPOCH
from tests.support import members, storage_members
from worker.domain.outcomes import LaneLimits
from worker.domain.schedules import AT_ONCE, Schedule
from worker.sandbox.api import STARTS, Operation
from worker.sandbox.scenario import (
    Account,
    Bucket,
    ConflictCode,
    ErrorCodePlace,
    ErrorNames,
    FaultKind,
    FaultSettings,
    JobSettings,
    Quota,
    RetryAfter,
    Scenario,
    ScriptedTarget,
)
from worker.sandbox.undocumented import Undocumented

LEASE_SECONDS: Final = 6.0
SETTLE_SECONDS: Final = 4.0
LAG_SECONDS: Final = 3.9
"""How long lists lag, if they do: less than the workers' settle time."""

SETTINGS: Final[dict[str, Any]] = {
    "lease_seconds": LEASE_SECONDS,
    "settle_seconds": SETTLE_SECONDS,
    "missing_grace_seconds": 5.0,
    "poll_min_seconds": 0.5,
    "poll_max_seconds": 3.0,
    "max_attempts": 6,
    "stuck_seconds": 20.0,
    "deadline_seconds": 90.0,
    "max_in_flight": 10,
    # Keys expire by the server's own time, and no seed runs for seconds of it.
    "retention_seconds": 86_400.0,
}
ACCOUNTS: Final = ("default", "second")
MISSING: Final = "d0missing"
BATCH: Final = "batch"
SCHEDULED: Final = 0.4
"""The share of seeds whose batch has a schedule."""

DIGITS: Final = 9
DELIVERY_SECONDS: Final = 12.0
"""During which time messages arrive."""
SKEWS_SECONDS: Final = (0.0, 0.0, 0.0, 200.0, -200.0, 3600.0, -3600.0)
"""How much workers' clocks may be off: AWS tolerates five minutes."""

KNOWN_LIMITS: Final = LaneLimits(start_rate=4, start_burst=3, poll_rate=12, poll_burst=6)
KNOWN_QUOTA: Final = Quota(starts=Bucket(rate=4, burst=3), reads=Bucket(rate=12, burst=6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """The probability of each fault at each opportunity, and the longest duration of a freeze."""

    kill: float
    freeze: float
    lost_reply: float
    unreachable: float
    freeze_seconds: float = 3 * LEASE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message: when it is delivered first, and how often."""

    at: float
    import_id: str
    request: dict[str, Any]
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a seed determines in advance. Times are seconds since the start.

    Faults until `faults_seconds` are drawn during the run.
    """

    seed: int
    scenario: Scenario
    limits: LaneLimits
    chances: Chances
    workers: int
    faults_seconds: float
    deliveries: tuple[Delivery, ...]
    cancellations: tuple[tuple[float, str], ...]
    outages: tuple[tuple[float, float], ...]
    expiries: tuple[tuple[float, float, str], ...]
    schedule: Schedule


def plan_of(seed: int) -> Plan:
    """Draw the plan of a seed."""
    rng = random.Random(f"plan {seed}")
    faults_seconds = rng.uniform(8, 25)
    deliveries = tuple(_deliveries(rng))
    is_known = rng.random() < 0.6
    schedule, deliveries = _schedule(seed, deliveries)
    return Plan(
        seed=seed,
        scenario=_scenario(seed, rng, KNOWN_QUOTA if is_known else _hidden_quota(rng)),
        limits=KNOWN_LIMITS if is_known else LaneLimits(),
        chances=Chances(
            kill=rng.choice((0, 0.003, 0.01)),
            freeze=rng.choice((0, 0.01, 0.02)),
            lost_reply=rng.choice((0, 0.01, 0.05)),
            unreachable=rng.choice((0, 0.02, 0.1)),
        ),
        workers=rng.randint(1, 3),
        faults_seconds=faults_seconds,
        deliveries=deliveries,
        cancellations=tuple(
            (one.at + rng.uniform(0, 12), one.import_id)
            for one in deliveries
            if rng.random() < 0.12
        ),
        outages=_windows(rng, 0.3, faults_seconds, 8),
        expiries=tuple(
            (*window, rng.choice(ACCOUNTS)) for window in _windows(rng, 0.3, DELIVERY_SECONDS, 8)
        ),
        schedule=schedule,
    )


def _schedule(seed: int, deliveries: tuple[Delivery, ...]) -> tuple[Schedule, tuple[Delivery, ...]]:
    """Draw the schedule of the batch; if it has one, most imports join it."""
    rng = random.Random(f"schedule {seed}")
    if rng.random() >= SCHEDULED:
        return AT_ONCE, deliveries
    schedule = Schedule(
        start_at_ms=rng.choice((None, round((EPOCH + rng.uniform(5, 40)) * 1000))),
        window=rng.choice((None, _window(rng))),
        max_per_hour=rng.choice((None, 120, 600)),
    )
    joined = tuple(
        replace(one, request={**one.request, "batchId": BATCH}) if rng.random() < 0.7 else one
        for one in deliveries
    )
    return schedule, joined if schedule else deliveries


def _window(rng: random.Random) -> str:
    """Draw a window that is closed for a minute or two of the first few."""
    minute = datetime.fromtimestamp(EPOCH, UTC)
    opens, closes = rng.choice(((1, 90), (-5, 1), (2, 4)))
    spans = [(opens, closes), (closes + rng.randint(1, 2), 600)]
    return (
        ", ".join(
            "-".join(f"{minute + timedelta(minutes=at):%H:%M}" for at in span) for span in spans
        )
        + " UTC"
    )


def owner_of(request: Mapping[str, Any]) -> str:
    """Return the import that a start belongs to: each request names its own pool or bucket."""
    name = str(request.get("userPoolId") or request["bucketName"])
    return f"import-{int(name[-DIGITS:])}"


def _windows(
    rng: random.Random, chance: float, latest: float, longest: float
) -> tuple[tuple[float, float], ...]:
    if rng.random() >= chance:
        return ()
    begin = rng.uniform(0, latest)
    return ((begin, begin + rng.uniform(0.1, longest)),)


def _deliveries(rng: random.Random) -> list[Delivery]:
    deliveries = []
    for number in range(rng.randint(2, 10)):
        import_id = f"import-{number}"
        app = MISSING if rng.random() < 0.05 else f"d{rng.randint(0, 4)}"
        more: dict[str, Any] = {"account": rng.choice((*ACCOUNTS[:1] * 3, ACCOUNTS[1]))}
        if rng.random() < 0.4:
            more["batchId"] = BATCH
        if rng.random() < 0.15:
            more["deadlineSeconds"] = 20
        more["priority"] = rng.choice(("high", "normal", "low"))
        digits = f"{number:0{DIGITS}d}"  # identifies the import in the API's jobs
        if rng.random() < 0.3:
            request = storage_members(app, bucketName=f"bucket-{digits}", **more)
        else:
            request = members(app, userPoolId=f"us-east-1_{digits}", **more)
        at = rng.uniform(0, DELIVERY_SECONDS)
        times = 2 if rng.random() < 0.15 else 1
        deliveries.append(Delivery(at=at, import_id=import_id, request=request, times=times))
    return deliveries


def _hidden_quota(rng: random.Random) -> Quota:
    return Quota(
        starts=Bucket(rate=rng.uniform(0.5, 5), burst=rng.randint(1, 4)),
        reads=Bucket(rate=rng.uniform(3, 15), burst=rng.randint(1, 8)),
        max_running=rng.choice((None, None, 2)),
    )


def _scenario(seed: int, rng: random.Random, quota: Quota) -> Scenario:
    return Scenario(
        seed=seed,
        error_names=rng.choice(list(ErrorNames)),
        error_code_in=rng.choice(list(ErrorCodePlace)),
        pending_conflict_code=rng.choice(list(ConflictCode)),
        missing_app_prefixes=(MISSING,),
        jobs=JobSettings(min_seconds=0.3, max_seconds=rng.choice((1, 4, 15)), failure_rate=0.15),
        undocumented=Undocumented.model_validate(rng.choice([{}, {}, *FACT_SETS.values()])),
        quota=quota.model_copy(update={"retry_after": rng.choice(list(RetryAfter))}),
        accounts={name: Account(access_key_id=f"AKIA{name}") for name in ACCOUNTS},
        faults=_faults(rng),
        fault_settings=FaultSettings(
            hang_seconds=10, slow_seconds=1.5, lag_seconds=LAG_SECONDS, late_404_seconds=2
        ),
        targets=(ScriptedTarget(app_id="d2", duration_seconds=200),) if rng.random() < 0.1 else (),
    )


def _faults(rng: random.Random) -> dict[Operation, dict[FaultKind, float]]:
    rates = {
        **dict.fromkeys(STARTS, rng.choice((0.0, 0.02, 0.06))),
        Operation.GET_BACKEND_JOB: rng.choice((0.0, 0.01, 0.03)),
        Operation.LIST_BACKEND_JOBS: rng.choice((0.0, 0.01, 0.03)),
    }
    standing, empty_pages = rng.choice((0.0, 0.5)), rng.choice((0.0, 0.3))
    often = {
        FaultKind.LAG: standing,
        FaultKind.LATE_404: standing,
        FaultKind.EMPTY_PAGES: empty_pages,
    }
    return {
        operation: {
            kind: often.get(kind, rate) for kind in FaultKind if operation in kind.operations
        }
        for operation, rate in rates.items()
    }
