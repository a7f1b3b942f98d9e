"""The simulated API: takes a call, executes it unless a fault prevents that, and returns a reply.

It does not deal with connections: `delivery` carries out the faults of the transport. It handles a
call without awaiting, so no call sees the partial effects of another.
"""

from contextlib import suppress
from dataclasses import dataclass

from worker.sandbox import wire
from worker.sandbox.accounts import Accounts
from worker.sandbox.answers import Body
from worker.sandbox.api import (
    STARTS,
    ApiError,
    Operation,
    Target,
    gateway_timeout,
    internal_failure,
)
from worker.sandbox.backend import Backend, Request
from worker.sandbox.bodies import parse_body
from worker.sandbox.clock import Clock, Instant
from worker.sandbox.faults import NEED_SUCCESS, NOT_EXECUTED, Faults, Plan
from worker.sandbox.jobs import Job, Jobs, JobStatus
from worker.sandbox.ledger import Call, Ledger
from worker.sandbox.scenario import FaultKind, Scenario
from worker.sandbox.signature import SERVICE, check_time, parse_authorization
from worker.sandbox.targets import Targets


@dataclass(frozen=True, slots=True)
class Arrival:
    """The contents of a request's first line and headers, not yet checked."""

    operation: Operation
    app_id: str
    environment: str
    job_id: str | None
    authorization: str | None
    signed_at: str | None


class Simulation:
    """One run of a scenario, which begins without jobs and calls."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.accounts = Accounts(scenario)
        self.targets = Targets(scenario)
        self._faults = Faults(scenario, self.targets)
        self._jobs = Jobs(scenario, self.targets)
        self._backend = Backend(self._jobs, scenario.undocumented.drawn(scenario.seed))
        self.ledger = Ledger(scenario.ledger_calls, self._jobs.all)

    def has_jobs(self, target: Target) -> bool:
        """Return whether a job was ever started for the target."""
        return bool(self._jobs.of(target, self.clock.now()))

    def imported(self, target: Target, by: Operation) -> Job | None:
        """Return the last job with which an operation imported something into the target."""
        now = self.clock.now()
        done = (
            job
            for job in reversed(self._jobs.of(target, now))
            if job.operation is by
            and job.status(now) is JobStatus.COMPLETED
            and not job.other_operation
        )
        return next(done, None)

    def receive(self, arrival: Arrival) -> Call:
        """Record a call in the ledger and return it. The caller must close it in the ledger."""
        call = Call(
            seq=self.ledger.received + 1,
            time=self.clock.now().wall,
            operation=arrival.operation,
            target=f"{arrival.app_id}/{arrival.environment}",
            job_id=arrival.job_id,
        )
        # A call without a valid signature has no account and no region. `handle` refuses it.
        with suppress(ApiError):
            scope = parse_authorization(arrival.authorization)
            call.account = self.accounts.name_of(scope.access_key_id)
            call.region = scope.region
        self.ledger.open(call)
        return call

    def handle(self, call: Call, arrival: Arrival, raw_body: bytes) -> wire.Reply:
        """Return the reply to a received call. Sets the `fault` and `job_id` of the call."""
        target = Target(call.account, call.region, arrival.app_id, arrival.environment)
        try:
            parse_authorization(arrival.authorization)
            check_time(arrival.signed_at, self.clock.now().wall)
            self._admit(call.operation, target)
        except ApiError as error:
            return wire.failure(error, self.scenario)
        plan = self._faults.plan(call.operation, target)
        call.fault = plan.fault
        if plan.fault in NOT_EXECUTED:
            return self._refusal(plan.fault)
        reply = self._executed(call, target, raw_body, plan)
        if plan.fault is FaultKind.ERROR_504_AFTER:
            return wire.failure(gateway_timeout(), self.scenario)
        return reply

    def _admit(self, operation: Operation, target: Target) -> None:
        self.accounts.check_credentials(target.account, f"{SERVICE}:{operation}")
        limiter = self.accounts.limiter(target.account, target.region)
        now = self.clock.now()
        limiter.admit(operation.operation_class, now)
        if operation in STARTS:
            limiter.check_running(self._jobs.running(target.account, target.region, now))

    def _refusal(self, fault: FaultKind) -> wire.Reply:
        if fault is FaultKind.HTML_502:
            return wire.bad_gateway()
        error = internal_failure() if fault is FaultKind.ERROR_500 else gateway_timeout()
        return wire.failure(error, self.scenario)

    def _executed(self, call: Call, target: Target, raw_body: bytes, plan: Plan) -> wire.Reply:
        try:
            body = self._execute(call, target, raw_body, plan)
        except ApiError as error:
            if plan.fault in NEED_SUCCESS:
                call.fault = None
            return wire.failure(error, self.scenario)
        call.job_id = body.get("jobId")
        return self._altered(body, plan.fault)

    def _execute(self, call: Call, target: Target, raw_body: bytes, plan: Plan) -> Body:
        body = parse_body(call.operation, raw_body)
        self.targets.check_exists(target)
        now = self.clock.now()
        hidden_seconds = self._hidden_seconds(plan.standing)
        if self._hides(call, target, hidden_seconds, now):
            call.fault = call.fault or plan.standing
        empty_pages = 0
        if plan.fault is FaultKind.EMPTY_PAGES:
            empty_pages = self.scenario.fault_settings.empty_pages
            if "nextToken" in body:
                call.fault = None  # only before a list's first page
        request = Request(call.operation, target, body, call.job_id, hidden_seconds, empty_pages)
        return self._backend.execute(request, now)

    def _hidden_seconds(self, standing: FaultKind | None) -> float:
        if standing is FaultKind.LATE_404:
            return self.scenario.fault_settings.late_404_seconds
        if standing is FaultKind.LAG:
            return self.scenario.fault_settings.lag_seconds
        return 0.0

    def _hides(self, call: Call, target: Target, hidden_seconds: float, now: Instant) -> bool:
        young = [job for job in self._jobs.of(target, now) if job.age(now) < hidden_seconds]
        return any(call.job_id in {None, job.job_id} for job in young)

    def _altered(self, body: Body, fault: FaultKind | None) -> wire.Reply:
        if fault is FaultKind.NO_JOB_ID:
            body = {name: value for name, value in body.items() if name != "jobId"}
        if fault is FaultKind.UNKNOWN_STATUS:
            body = body | {"status": self.scenario.fault_settings.unknown_status}
        reply = wire.success(body)
        return reply.cut_off() if fault is FaultKind.TRUNCATED else reply
