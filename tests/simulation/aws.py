"""The simulated API in this process, in place of `Aws.call`, behind a network that takes time.

A request that was sent arrives, even if its sender dies.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import Any, Final

from botocore import xform_name

from tests.model import DEFINITE
from tests.simulation.loop import EPOCH
from tests.simulation.plan import owner_of
from tests.simulation.world import World
from worker.domain.answers import Answer, Kind
from worker.domain.states import State
from worker.operations.http import CallFailedError, Page, Response, read, read_page
from worker.sandbox.api import STARTS, Operation, OperationClass
from worker.sandbox.clock import Clock, Instant
from worker.sandbox.jobs import Job
from worker.sandbox.ledger import Call
from worker.sandbox.scenario import FaultKind
from worker.sandbox.simulation import Arrival, Simulation
from worker.sandbox.wire import Reply

OPERATIONS: Final = {xform_name(operation): operation for operation in Operation}
"""The API's operations by the names of botocore's methods."""

RESETS: Final = frozenset({FaultKind.RESET_BEFORE, FaultKind.RESET_AFTER, FaultKind.HANG})
TRANSIT_SECONDS: Final = 0.02
START_WEIGHT: Final = 5.0
REFUSED: Final = Answer(kind=Kind.UNREACHABLE, error="refused")
REALLY_REFUSED_SHARE: Final = 0.5
"""The share of refused connections that really reached nobody; a proxy may report the others
wrongly."""

UNDER_WAY: Final = frozenset({State.STARTING, State.RUNNING})

StateOf = Callable[[str], str]


class SimulatedAws:
    """The remote API of one seed, and the checks of the calls that it receives."""

    def __init__(self, world: World, timeout_seconds: float, acknowledged_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._acknowledged_seconds = acknowledged_seconds
        self._world = world
        self.simulation = Simulation(world.plan.scenario)
        self.simulation.clock = _Clock(world)
        self.state_of: StateOf = lambda _: ""
        """Returns the state of an import."""
        self.sent: dict[tuple[str, OperationClass], int] = {}
        self.unreconciled: dict[str, str] = {}
        """Import → target, for starts that may have taken effect and have not been reconciled
        since."""

    @property
    def jobs(self) -> list[Job]:
        """All jobs that were ever started."""
        return self.simulation.ledger.jobs

    def jobs_of(self, import_id: str) -> list[Job]:
        """Return the jobs that an import has started."""
        return [job for job in self.jobs if owner_of(job.request) == import_id]

    def region_of(self, _account: str) -> str:
        """Return the same region for every account."""
        return "us-east-1"

    async def call(
        self,
        account: str,
        region: str,
        method: str,
        params: Mapping[str, object],
        send_by: float = math.inf,
        answer_by: float = math.inf,
    ) -> Response:
        """Make one call, as `Aws.call` does."""
        is_start = OPERATIONS[method] in STARTS
        await self._world.pause(f"{method} ...", START_WEIGHT if is_start else 1.0)
        is_refused = self._world.fault_occurs(self._world.plan.chances.unreachable)
        if is_refused and self._world.rng.random() < REALLY_REFUSED_SHARE:
            self._world.note(f"{method}: no connection")
            raise CallFailedError(REFUSED)
        if time.monotonic() >= send_by:
            self._world.note(f"{method}: too late")
            raise CallFailedError(Answer(kind=Kind.UNKNOWN, error="too late to be sent"))
        arrival, body = _request(account, region, OPERATIONS[method], params)
        key = (f"{account}/{region}", arrival.operation.operation_class)
        self.sent[key] = self.sent.get(key, 0) + 1
        if is_refused:
            asyncio.get_running_loop().call_later(
                TRANSIT_SECONDS, self._arrive, arrival, body, None
            )
            self._world.note(f"{method}: no connection, as it seems")
            raise CallFailedError(REFUSED)
        end = min(answer_by, time.monotonic() + self.timeout_seconds)
        try:
            async with asyncio.timeout(end - time.monotonic()):
                response = await self._send(arrival, body)
        except (TimeoutError, ConnectionResetError) as error:
            self._world.note(f"{method}: {error!r}")
            raise CallFailedError(Answer(kind=Kind.UNKNOWN, error=repr(error))) from error
        await self._world.pause(f"... {method}: {response.status} {response.body[:200]!r}")
        self._note_answered(arrival, body, response)
        return response

    async def _send(self, arrival: Arrival, body: dict[str, Any]) -> Response:
        answered = asyncio.get_running_loop().create_future()
        rng = self._world.rng
        slow = self._acknowledged_seconds * rng.random() if self._world.fault_occurs(0.05) else 0.0
        transit_seconds = max(slow, rng.uniform(0, TRANSIT_SECONDS))
        asyncio.get_running_loop().call_later(
            transit_seconds, self._arrive, arrival, body, answered
        )
        reply: Reply = await answered
        now = EPOCH + self._world.now
        headers = {"date": format_datetime(datetime.fromtimestamp(int(now), UTC), usegmt=True)}
        headers |= {"content-type": reply.content_type}
        headers |= {name.lower(): value for name, value in reply.headers.items()}
        return Response(reply.status, headers, reply.text.encode(), time.time())

    def _arrive(
        self, arrival: Arrival, body: dict[str, Any], answered: "asyncio.Future[Reply] | None"
    ) -> None:
        if arrival.operation in STARTS:
            self._check_start(arrival, owner_of(body))
        call = self.simulation.receive(arrival)
        reply = self.simulation.handle(call, arrival, json.dumps(body).encode())
        self._world.note(f"{call.operation} arrives: {reply.status} {call.fault or ''}")
        settings = self.simulation.scenario.fault_settings
        delays = {FaultKind.HANG: settings.hang_seconds, FaultKind.SLOW: settings.slow_seconds}
        delay = delays.get(call.fault, 0.0) if call.fault else 0.0
        delay += self._world.rng.uniform(0, TRANSIT_SECONDS)
        leave = partial(self._leave, call, reply, answered)
        asyncio.get_running_loop().call_later(delay, leave)

    def _leave(self, call: Call, reply: Reply, answered: "asyncio.Future[Reply] | None") -> None:
        self.simulation.ledger.close(call)
        if answered is None or answered.done():
            return
        if call.fault in RESETS:
            answered.set_exception(ConnectionResetError("reset"))
        else:
            answered.set_result(reply)

    # ---- checks of starts

    def _check_start(self, arrival: Arrival, owner: str) -> None:
        """Check a start against its import's state and the active jobs of its target."""
        target = f"{arrival.app_id}/{arrival.environment}"
        if (state := self.state_of(owner)) != State.STARTING:
            self._world.report_violation(f"{owner} is started while its import is {state}")
        if owner in self.unreconciled:
            self._world.report_violation(f"{owner} is started again without reconciling")
        self.unreconciled[owner] = target
        now = self.simulation.clock.now()
        for job in self.jobs:
            rival = owner_of(job.request)
            is_beside = job.target.path == target and job.finished(now) is None
            is_same = job.target.account == _account_of(arrival)
            if is_beside and is_same and rival != owner and self.state_of(rival) in UNDER_WAY:
                self._world.report_violation(f"{owner} is started beside the job of {rival}")

    def _note_answered(self, arrival: Arrival, body: dict[str, Any], response: Response) -> None:
        """Record what an answer that the worker has read proves about starts."""
        if arrival.operation in STARTS:
            if read(response).kind in DEFINITE:
                self.unreconciled.pop(owner_of(body), None)
        elif arrival.operation is Operation.LIST_BACKEND_JOBS:
            page = read_page(response)
            is_last = isinstance(page, Page) and not page.next_token
            if is_last or read(response).kind is Kind.NOT_FOUND:
                self.mark_reconciled(f"{arrival.app_id}/{arrival.environment}")

    def mark_reconciled(self, target: str) -> None:
        """Record that a worker has listed a target's jobs."""
        self.unreconciled = {o: of for o, of in self.unreconciled.items() if of != target}


class _Clock(Clock):
    """The clock of the API."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def now(self) -> Instant:
        return Instant(elapsed=self._world.now, wall=EPOCH + self._world.now)


def _request(
    account: str, region: str, operation: Operation, params: Mapping[str, object]
) -> tuple[Arrival, dict[str, Any]]:
    signed_at = datetime.fromtimestamp(time.time(), UTC)
    job_id = params.get("JobId")
    arrival = Arrival(
        operation,
        app_id=str(params["AppId"]),
        environment=str(params["BackendEnvironmentName"]),
        job_id=None if job_id is None else str(job_id),
        authorization=(
            f"AWS4-HMAC-SHA256 Credential=AKIA{account}/{signed_at:%Y%m%d}/{region}/amplifybackend"
            f"/aws4_request, SignedHeaders=host, Signature={'0' * 64}"
        ),
        signed_at=f"{signed_at:%Y%m%dT%H%M%SZ}",
    )
    of_path = {"AppId", "BackendEnvironmentName", "JobId"}
    body = {name[0].lower() + name[1:]: v for name, v in params.items() if name not in of_path}
    return arrival, body


def _account_of(arrival: Arrival) -> str:
    return str(arrival.authorization).partition("AKIA")[2].partition("/")[0]
