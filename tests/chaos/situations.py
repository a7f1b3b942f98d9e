"""Small situations that together lead a worker past everything it can do.

Each says what the sandbox plays, which requests come by which door, and how each import must end,
whoever dies meanwhile.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from celery import chain

from tests.chaos.natures import played, shown
from tests.support import ACCESS_KEY, Producer, Sandbox, members, wait_until
from worker.domain.facts import SLACK_SECONDS
from worker.domain.requests import derive_import_id
from worker.sandbox.scenario import Credentials, Scenario

LANE: Final = "default/us-east-1"
GRAIN_SECONDS: Final = 2.0
"""Between two times that are written in whole seconds, and may each be off by one."""

UNDECIDED: Final = frozenset({"waiting", "starting", "running"})


@dataclass(slots=True)
class Stage:
    """One performance of a situation: what was sent so far, and what must come of it."""

    sandbox: Sandbox
    producer: Producer
    outcomes: dict[str, str] = field(default_factory=dict)
    """Import id → how it must end."""

    results: dict[str, frozenset[str]] = field(default_factory=dict)
    """Celery task id → the states in which its result may be in the end."""

    jobs_of: dict[str, int] = field(default_factory=dict)
    """Target → the jobs that it must have, where that is not one at most."""

    steps: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def task(self, app: str, outcome: str = "succeeded", **more: Any) -> str:
        """Send an import as a task."""
        return self.expect(self.producer.send(members(app, **more)).id, outcome)

    def entry(self, app: str, outcome: str = "succeeded", **more: Any) -> str:
        """Put an import on the stream, named as its app."""
        self.producer.add({"importId": app, **members(app, **more)})
        return self.expect(app, outcome)

    def text(self, text: str) -> None:
        """Put what is no request on the stream."""
        self.expect(derive_import_id("stream", self.producer.add(text)), "rejected")

    def batch(self, batch_id: str, apps: Mapping[str, str], **more: Any) -> None:
        """Send a batch, given as app → outcome."""
        message = self.producer.send_batch(batch_id, [members(app) for app in apps], **more)
        self.results[message.id] = frozenset({"SUCCESS"})
        for position, outcome in enumerate(apps.values()):
            self.expect(derive_import_id(batch_id, position), outcome)

    def expect(self, import_id: str, outcome: str) -> str:
        """Note how an import must end, and so the task of its id."""
        self.outcomes[import_id] = outcome
        state = "SUCCESS" if outcome == "succeeded" else "FAILURE"
        revoked = {"REVOKED"} if outcome == "cancelled" else set()
        self.results[import_id] = frozenset({state, *revoked})
        return import_id

    def state_of(self, import_id: str) -> str:
        """Return the state of an import's record, '' where there is none yet."""
        return str(self.producer.redis.hget(f"imports:import:{import_id}", "state") or "")

    def first_time(self, step: str) -> bool:
        """Say True once."""
        is_first = step not in self.steps
        self.steps.add(step)
        return is_first

    def revoke(self, import_id: str) -> None:
        """Cancel as Celery's users do; a worker that dies takes the order along."""
        if self.state_of(import_id) in UNDECIDED:
            self.producer.app.control.revoke(import_id)

    def start_elsewhere(self, app: str) -> None:
        """Start a job that is nobody's import, once no other job stands in its way."""
        call = Request(  # noqa: S310 - the sandbox's own address
            f"{self.sandbox.url}/backend/{app}/auth/staging/import",
            method="POST",
            headers={
                "Content-Type": "application/json",
                "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20250101/us-east-1"
                f"/amplifybackend/aws4_request, SignedHeaders=host, Signature={'0' * 64}",
            },
            data=json.dumps(
                {"userPoolId": "pool", "nativeClientId": "native", "webClientId": "web"}
            ).encode(),
        )

        def is_started() -> bool:
            try:
                with urlopen(call, timeout=5):  # noqa: S310 - the sandbox's own address
                    return True
            except HTTPError as error:
                if error.code != HTTPStatus.BAD_REQUEST:
                    raise
                return False

        wait_until(is_started, "a job is started that is nobody's import")


def _nothing(_: Stage) -> None:
    """Leave it at what was sent."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the sandbox plays, what is sent, and what happens meanwhile.

    `send` is called once, `meanwhile` again and again until all is over. The lane is known, so that
    the same imports pass the same boundaries each time, unless it `is_new`.
    """

    name: str
    send: Callable[[Stage], None]
    meanwhile: Callable[[Stage], None] = _nothing
    settings: Mapping[str, str] = field(default_factory=dict)
    scenario: Mapping[str, Any] = field(default_factory=dict)
    is_new: bool = False

    def perform(self, sandbox: Sandbox, producer: Producer) -> Stage:
        """Set the stage and send the requests."""
        sandbox.reset(played(Scenario.model_validate(self.scenario)))
        if not self.is_new:
            facts: Any = shown().to_fields()
            producer.redis.hset(f"imports:facts:{LANE}", mapping=facts)
        stage = Stage(sandbox, producer)
        self.send(stage)
        return stage


def _target(app: str, *faults: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"app_id": app, "faults": list(faults), **more}


def _once(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "times": 1, **more}


def _send_by_every_door(stage: Stage) -> None:
    stage.task("dtask")
    stage.task("Not-An-App", "rejected")
    first, second = (
        stage.producer.app.signature(
            "imports.import_backend_auth",
            kwargs=members(app),
            queue="imports",
            app=stage.producer.app,
        )
        for app in ("dfirst", "dsecond")
    )
    chained: Any = chain(first, second, app=stage.producer.app).apply_async()
    for task_id in (chained.id, chained.parent.id):
        stage.expect(task_id, "succeeded")
    stage.batch("nightly", {"dbatch": "succeeded", "Not-An-App": "rejected"})
    bad = stage.producer.send_batch("no batch id", [members("dnever")])
    stage.expect(bad.id, "rejected")
    stage.entry("dearly", idempotencyKey="once")
    stage.text("not json")


def _ask_again_with_the_same_key(stage: Stage) -> None:
    if stage.state_of("dearly") and stage.first_time("asked again"):
        stage.producer.add({"importId": "late", **members("dearly", idempotencyKey="once")})
        stage.results["late"] = frozenset({"SUCCESS"})


def _leave_to_others(stage: Stage) -> None:
    """Have a worker read an entry that is never heard of again, and junk in a Celery queue."""
    redis = stage.producer.redis
    redis.xgroup_create("imports:requests", "workers", id="0", mkstream=True)
    stage.entry("dleft")
    redis.xreadgroup("workers", "gone", {"imports:requests": ">"})
    redis.lpush("imports", "junk")
    stage.expect(derive_import_id("message", "junk"), "rejected")
    stage.task("dright")


def _send_doubtful(stage: Stage) -> None:
    for app in ("dadopt", "dagain", "dnojob", "dpages", "dlost"):
        stage.entry(app)
    stage.task("drefused", "rejected")
    stage.entry("dmissing", "rejected")


def _send_to_be_polled(stage: Stage) -> None:
    stage.task("dfail", "failed")
    stage.task("dnever", "timed_out", deadlineSeconds=1)
    for app in ("dstuck", "dgone", "dpoll"):
        stage.entry(app)


def _send_entries(count: int) -> Callable[[Stage], None]:
    def send(stage: Stage) -> None:
        for number in range(count):
            stage.entry(f"d{number}")

    return send


def _send_hopeless(stage: Stage) -> None:
    stage.entry("dspent", "failed")


def _send_for_one_target(stage: Stage) -> None:
    stage.task("dsame")
    stage.task("dsame")
    stage.start_elsewhere("dbusy")
    stage.sandbox.script("dbusy", duration_seconds=0.3)
    stage.expect("dbusy", "succeeded")
    stage.jobs_of.update({"dsame/staging": 2, "dbusy/staging": 2})


def _ask_for_the_busy_target(stage: Stage) -> None:
    """Ask once a worker is up, and the other's job is too old to be taken for the import's."""
    is_old = time.monotonic() - stage.began > 1.5 * SLACK_SECONDS + GRAIN_SECONDS
    is_up = "succeeded" in map(stage.state_of, stage.outcomes)
    if is_old and is_up and stage.first_time("asked"):
        stage.entry("dbusy")


def _send_what_cannot_be_paid(stage: Stage) -> None:
    stage.entry("dslow")
    stage.task("dtask")


def _let_credentials_expire(stage: Stage) -> None:
    """Once a job runs; once a lane has paused, they are good again."""
    if stage.producer.events("lane.paused"):
        stage.sandbox.set_credentials("default", Credentials.OK)
    elif stage.state_of("dslow") == "running":
        stage.sandbox.set_credentials("default", Credentials.EXPIRED)


def _send_expired(stage: Stage) -> None:
    stage.sandbox.set_credentials("default", Credentials.EXPIRED)
    stage.entry("dfirst")
    stage.task("dsecond")


def _renew_credentials(stage: Stage) -> None:
    if stage.producer.events("lane.paused"):
        stage.sandbox.set_credentials("default", Credentials.OK)


def _send_to_be_cancelled(stage: Stage) -> None:
    stage.entry("dstarting", "cancelled")
    stage.entry("drunning", "cancelled")
    stage.producer.add({"importId": "parked", **members("drunning")})
    stage.expect("parked", "cancelled")


def _cancel(stage: Stage) -> None:
    """Cancel one while its start is being made, one that is parked, and the one it waits for."""
    if stage.state_of("dstarting") != "waiting":
        stage.revoke("dstarting")
    if "running" in {stage.state_of("drunning"), stage.state_of("parked")}:
        stage.revoke("parked")
    if stage.state_of("parked") == "cancelled":
        stage.revoke("drunning")


def _send_canary(stage: Stage) -> None:
    apps = {f"d{number}": "succeeded" for number in range(4)}
    stage.batch("careful", apps, canary=1, total=len(apps))


_LONG: Final = 3
"""Seconds of a job that must still run when it is asked for, however slow the machine is."""

_LONGER: Final = 10
"""Seconds that outlast a crash, and what takes over: such a job ends late, and is noted."""

_DOUBTS: Final = (
    _target("dadopt", _once("error_504_after"), duration_seconds=_LONG),
    _target("dagain", _once("error_504_before")),
    _target("dnojob", _once("no_job_id"), duration_seconds=_LONG),
    _target("dpages", _once("error_504_after"), {"kind": "empty_pages"}, duration_seconds=_LONG),
    _target(
        "dlost",
        _once("reset_after"),
        _once("html_502", operation="ListBackendJobs"),
        duration_seconds=_LONG,
    ),
    _target("drefused", outcome="reject"),
    _target("dmissing", outcome="not_found"),
)
_POLLS: Final = (
    _target("dfail", outcome="fail", duration_seconds=0.3),
    _target("dnever", duration_seconds=_LONGER),
    _target("dstuck", duration_seconds=_LONG),
    _target("dgone", {"kind": "late_404"}, duration_seconds=5),
    _target("dpoll", _once("error_504_before", operation="GetBackendJob")),
)
_TO_BE_CANCELLED: Final = (
    _target("dstarting", {"kind": "slow"}, duration_seconds=_LONGER),
    _target("drunning", duration_seconds=_LONGER),
)
_ONE_ACCOUNT: Final = {"default": {"access_key_id": ACCESS_KEY}}

SITUATIONS: Final = (
    Situation("doors", _send_by_every_door, _ask_again_with_the_same_key, is_new=True),
    Situation("left behind", _leave_to_others),
    Situation("doubts", _send_doubtful, scenario={"targets": _DOUBTS}),
    Situation(
        "polls",
        _send_to_be_polled,
        settings={"IMPORTS_STUCK_SECONDS": "1", "IMPORTS_MISSING_GRACE_SECONDS": "0.5"},
        scenario={"targets": _POLLS},
    ),
    Situation(
        "attempts",
        _send_hopeless,
        settings={"IMPORTS_MAX_ATTEMPTS": "2"},
        scenario={"targets": [_target("dspent", {"kind": "error_504_before"})]},
    ),
    Situation(
        "throttled",
        _send_entries(6),
        scenario={"quota": {"starts": {"rate": 4, "burst": 2}, "reads": {"rate": 2, "burst": 1}}},
    ),
    Situation("crowded", _send_entries(4), scenario={"quota": {"max_running": 2}}),
    Situation(
        "one target",
        _send_for_one_target,
        _ask_for_the_busy_target,
        # Longer than a worker needs to come up: it must find the target busy.
        scenario={"targets": [_target("dbusy", duration_seconds=8)]},
    ),
    Situation(
        "expired",
        _send_expired,
        _renew_credentials,
        scenario={"accounts": _ONE_ACCOUNT},
    ),
    Situation(
        "expiring",
        _send_what_cannot_be_paid,
        _let_credentials_expire,
        scenario={
            "accounts": _ONE_ACCOUNT,
            "targets": [_target("dslow", duration_seconds=1.5)],
        },
    ),
    Situation(
        "outage",
        _send_entries(10),
        scenario={
            "targets": [_target(f"d{n}", _once("error_504_before")) for n in range(10)],
        },
    ),
    Situation(
        "cancelled",
        _send_to_be_cancelled,
        _cancel,
        scenario={"targets": _TO_BE_CANCELLED, "fault_settings": {"slow_seconds": 0.7}},
    ),
    Situation("canary", _send_canary),
)
"""Together they pass every boundary there is; `test_crashes` says so."""
