"""Small situations that together make a worker pass every crash boundary.

Each defines the sandbox's scenario, which requests arrive through which entry point, and how each
import must end, whichever worker is killed.
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

from tests.chaos.undocumented_facts import learned_facts, with_chosen_facts
from tests.support import ACCESS_KEY, Producer, Sandbox, members, wait_until
from worker.domain.facts import SLACK_SECONDS
from worker.domain.requests import derive_import_id
from worker.sandbox.scenario import Credentials, Scenario

LANE: Final = "default/us-east-1"
ROUNDING_SECONDS: Final = 2.0
"""The interval between two times that are rounded to seconds and may each be off by one."""

UNDECIDED: Final = frozenset({"waiting", "starting", "running"})


@dataclass(slots=True)
class Run:
    """One run of a situation: what was sent so far, and what must come of it."""

    sandbox: Sandbox
    producer: Producer
    outcomes: dict[str, str] = field(default_factory=dict)
    """Import id → how the import must end."""

    results: dict[str, frozenset[str]] = field(default_factory=dict)
    """Celery task id → the states that its result may have at the end."""

    jobs_of: dict[str, int] = field(default_factory=dict)
    """Target → the number of jobs that it must have; other targets have at most one."""

    steps: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def task(self, app: str, outcome: str = "succeeded", **more: Any) -> str:
        """Send an import as a task."""
        return self.expect(self.producer.send(members(app, **more)).id, outcome)

    def entry(self, app: str, outcome: str = "succeeded", **more: Any) -> str:
        """Add an import to the stream; its id is the app's."""
        self.producer.add({"importId": app, **members(app, **more)})
        return self.expect(app, outcome)

    def text(self, text: str) -> None:
        """Add text that is not a request to the stream."""
        self.expect(derive_import_id("stream", self.producer.add(text)), "rejected")

    def batch(self, batch_id: str, apps: Mapping[str, str], **more: Any) -> None:
        """Send a batch, given as app → outcome."""
        message = self.producer.send_batch(batch_id, [members(app) for app in apps], **more)
        self.results[message.id] = frozenset({"SUCCESS"})
        for position, outcome in enumerate(apps.values()):
            self.expect(derive_import_id(batch_id, position), outcome)

    def expect(self, import_id: str, outcome: str) -> str:
        """Record how an import must end, and thereby how the task of the same id must."""
        self.outcomes[import_id] = outcome
        state = "SUCCESS" if outcome == "succeeded" else "FAILURE"
        revoked = {"REVOKED"} if outcome == "cancelled" else set()
        self.results[import_id] = frozenset({state, *revoked})
        return import_id

    def state_of(self, import_id: str) -> str:
        """Return the state of an import's record, '' if there is none yet."""
        return str(self.producer.redis.hget(f"imports:import:{import_id}", "state") or "")

    def first_time(self, step: str) -> bool:
        """Return True at the first call for this step."""
        is_first = step not in self.steps
        self.steps.add(step)
        return is_first

    def revoke(self, import_id: str) -> None:
        """Cancel an import through Celery. A worker that dies may lose the command, so it is
        repeated."""
        if self.state_of(import_id) in UNDECIDED:
            self.producer.app.control.revoke(import_id)

    def start_elsewhere(self, app: str) -> None:
        """Start a job that belongs to no import, once no other job is pending."""
        call = Request(  # noqa: S310 - the sandbox's address
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
                with urlopen(call, timeout=5):  # noqa: S310 - the sandbox's address
                    return True
            except HTTPError as error:
                if error.code != HTTPStatus.BAD_REQUEST:
                    raise
                return False

        wait_until(is_started, "another party's job is started")


def _nothing(_: Run) -> None:
    """Do nothing more."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The sandbox's scenario, what is sent, and what happens meanwhile.

    `send` is called once, `meanwhile` repeatedly until everything is over. Unless the lane
    `is_new`, its facts are known already, so that the same imports pass the same boundaries in
    every run.
    """

    name: str
    send: Callable[[Run], None]
    meanwhile: Callable[[Run], None] = _nothing
    settings: Mapping[str, str] = field(default_factory=dict)
    scenario: Mapping[str, Any] = field(default_factory=dict)
    is_new: bool = False

    def begin(self, sandbox: Sandbox, producer: Producer) -> Run:
        """Set up a run and send the requests."""
        sandbox.reset(with_chosen_facts(Scenario.model_validate(self.scenario)))
        if not self.is_new:
            facts: Any = learned_facts().to_fields()
            producer.redis.hset(f"imports:facts:{LANE}", mapping=facts)
        run = Run(sandbox, producer)
        self.send(run)
        return run


def _target(app: str, *faults: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"app_id": app, "faults": list(faults), **more}


def _once(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "times": 1, **more}


def _send_through_every_entry_point(run: Run) -> None:
    run.task("dtask")
    run.task("Not-An-App", "rejected")
    first, second = (
        run.producer.app.signature(
            "imports.import_backend_auth",
            kwargs=members(app),
            queue="imports",
            app=run.producer.app,
        )
        for app in ("dfirst", "dsecond")
    )
    chained: Any = chain(first, second, app=run.producer.app).apply_async()
    for task_id in (chained.id, chained.parent.id):
        run.expect(task_id, "succeeded")
    run.batch("nightly", {"dbatch": "succeeded", "Not-An-App": "rejected"})
    bad = run.producer.send_batch("no batch id", [members("dnever")])
    run.expect(bad.id, "rejected")
    run.entry("dearly", idempotencyKey="once")
    run.text("not json")


def _send_again_with_same_key(run: Run) -> None:
    if run.state_of("dearly") and run.first_time("asked again"):
        run.producer.add({"importId": "late", **members("dearly", idempotencyKey="once")})
        run.results["late"] = frozenset({"SUCCESS"})


def _leave_unfinished_work(run: Run) -> None:
    """Let another worker read a stream entry and disappear; put an invalid message into a queue."""
    redis = run.producer.redis
    redis.xgroup_create("imports:requests", "workers", id="0", mkstream=True)
    run.entry("dleft")
    redis.xreadgroup("workers", "gone", {"imports:requests": ">"})
    redis.lpush("imports", "junk")
    run.expect(derive_import_id("message", "junk"), "rejected")
    run.task("dright")


def _send_unknown_outcomes(run: Run) -> None:
    for app in ("dadopt", "dagain", "dnojob", "dpages", "dlost"):
        run.entry(app)
    run.task("drefused", "rejected")
    run.entry("dmissing", "rejected")


def _send_for_polling(run: Run) -> None:
    run.task("dfail", "failed")
    run.task("dnever", "timed_out", deadlineSeconds=1)
    for app in ("dstuck", "dgone", "dpoll"):
        run.entry(app)


def _send_entries(count: int) -> Callable[[Run], None]:
    def send(run: Run) -> None:
        for number in range(count):
            run.entry(f"d{number}")

    return send


def _send_exhausting_attempts(run: Run) -> None:
    run.entry("dspent", "failed")


def _send_for_one_target(run: Run) -> None:
    run.task("dsame")
    run.task("dsame")
    run.start_elsewhere("dbusy")
    run.sandbox.script("dbusy", duration_seconds=0.3)
    run.expect("dbusy", "succeeded")
    run.jobs_of.update({"dsame/staging": 2, "dbusy/staging": 2})


def _send_for_busy_target(run: Run) -> None:
    """Send a request once a worker is up and the other job is too old to be the import's own."""
    is_old = time.monotonic() - run.began > 1.5 * SLACK_SECONDS + ROUNDING_SECONDS
    is_up = "succeeded" in map(run.state_of, run.outcomes)
    if is_old and is_up and run.first_time("asked"):
        run.entry("dbusy")


def _send_before_expiry(run: Run) -> None:
    run.entry("dslow")
    run.task("dtask")


def _let_credentials_expire(run: Run) -> None:
    """Let credentials expire once a job runs; make them valid once a lane has paused."""
    if run.producer.events("lane.paused"):
        run.sandbox.set_credentials("default", Credentials.OK)
    elif run.state_of("dslow") == "running":
        run.sandbox.set_credentials("default", Credentials.EXPIRED)


def _send_expired(run: Run) -> None:
    run.sandbox.set_credentials("default", Credentials.EXPIRED)
    run.entry("dfirst")
    run.task("dsecond")


def _renew_credentials(run: Run) -> None:
    if run.producer.events("lane.paused"):
        run.sandbox.set_credentials("default", Credentials.OK)


def _send_to_be_cancelled(run: Run) -> None:
    run.entry("dstarting", "cancelled")
    run.entry("drunning", "cancelled")
    run.producer.add({"importId": "parked", **members("drunning")})
    run.expect("parked", "cancelled")


def _cancel(run: Run) -> None:
    """Cancel one import during its start, one that is parked, and the one that it waits for."""
    if run.state_of("dstarting") != "waiting":
        run.revoke("dstarting")
    if "running" in {run.state_of("drunning"), run.state_of("parked")}:
        run.revoke("parked")
    if run.state_of("parked") == "cancelled":
        run.revoke("drunning")


def _send_canary(run: Run) -> None:
    apps = {f"d{number}": "succeeded" for number in range(4)}
    run.batch("careful", apps, canary=1, total=len(apps), window="00:00-24:00 UTC")


_LONG: Final = 3
"""Seconds of a job that must still run when it is polled, even on a slow machine."""

_LONGER: Final = 10
"""Seconds of a job that outlasts a crash and its recovery: its late end is noted."""

_UNKNOWN_OUTCOMES: Final = (
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
    Situation(
        "entry points", _send_through_every_entry_point, _send_again_with_same_key, is_new=True
    ),
    Situation("left behind", _leave_unfinished_work),
    Situation("unknown outcomes", _send_unknown_outcomes, scenario={"targets": _UNKNOWN_OUTCOMES}),
    Situation(
        "polls",
        _send_for_polling,
        settings={"IMPORTS_STUCK_SECONDS": "1", "IMPORTS_MISSING_GRACE_SECONDS": "0.5"},
        scenario={"targets": _POLLS},
    ),
    Situation(
        "attempts",
        _send_exhausting_attempts,
        settings={"IMPORTS_MAX_ATTEMPTS": "2"},
        scenario={"targets": [_target("dspent", {"kind": "error_504_before"})]},
    ),
    Situation(
        "throttled",
        _send_entries(5),
        scenario={
            "quota": {
                "starts": {"rate": 4, "burst": 2},
                "reads": {"rate": 2, "burst": 1},
                # By then the lane has learned the rate: polls are refused whatever else calls for
                # lists.
                "changes": [{"at_seconds": 3, "bucket": "reads", "rate": 1}],
            }
        },
    ),
    Situation("crowded", _send_entries(4), scenario={"quota": {"max_running": 2}}),
    Situation(
        "one target",
        _send_for_one_target,
        _send_for_busy_target,
        # Longer than a worker needs to start: it must find the target busy.
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
        _send_before_expiry,
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
    Situation("verified", _send_entries(3), settings={"IMPORTS_VERIFY": "on"}),
)
"""Together they pass every boundary; `test_crashes` checks this."""
