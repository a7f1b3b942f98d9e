"""The store that the engine writes to: a typed wrapper around each script."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from worker.domain.claims import Claim
from worker.domain.decisions import Decision
from worker.domain.imports import Import
from worker.domain.outcomes import (
    NO_RULE,
    Action,
    Admission,
    Cancellation,
    Ended,
    Envelope,
    InvalidRequest,
    LaneLimits,
    Resolution,
    Retried,
    StopRule,
    ValidRequest,
)
from worker.domain.recording import NOTHING_OBSERVED, Observed, Recorded
from worker.domain.requests import IDENTIFIER_PATTERN, ImportRequest
from worker.domain.schedules import AT_ONCE, Schedule
from worker.store.codec import (
    admissions_in,
    claims_in,
    conflict_of,
    digest,
    ended_in,
    milliseconds,
    recorded_in,
    retried_in,
    script_request,
)
from worker.store.config import StoreConfig
from worker.store.connection import StoreUnavailableError, translated
from worker.store.group_commit import GroupCommit
from worker.store.keys import ACCOUNTS, IDEMPOTENCY, IMPORT, WAKE
from worker.store.observer import NOBODY, StoreObserver
from worker.store.recording import answer_to, step_of
from worker.store.records import import_of
from worker.store.replication import ReplicatedScripts
from worker.store.schedules import renew_openings
from worker.store.scripts import Reply, Scripts

log = structlog.get_logger()

LANES_AT_ONCE: Final = 64
ACCOUNT_MEMORY_SECONDS: Final = 300.0
"""How long an account stays accepted when no worker says so any more. Workers repeat it often."""

NOTHING: Final[Mapping[str, int]] = {}


class ImportStore:
    """Writes the imports. Every method is one atomic step of one script.

    All methods raise StoreUnavailableError if the store can't be reached.
    """

    def __init__(
        self, redis: "Redis", config: StoreConfig, observer: StoreObserver = NOBODY
    ) -> None:
        self._redis = redis
        self._observer = observer
        self._lease_ms = milliseconds(config.lease_seconds)
        scripts = ReplicatedScripts if config.replicated else Scripts
        self._scripts = scripts(redis, config.for_scripts(), observer)
        self._index_cursor = "0"
        self._answers = GroupCommit(self._scripts)

    async def admit(self, envelope: Envelope, request: ImportRequest, region: str) -> Admission:
        """Admit a valid request into the lane of its account and `region`. Safe to repeat."""
        (admission,) = await self.admit_all([ValidRequest(envelope, request, region)])
        return admission

    async def reject(
        self, envelope: Envelope, target: tuple[str, str], lane: tuple[str, str], error: str
    ) -> Admission:
        """Record an invalid request as an import that ended `rejected`. Safe to repeat."""
        (admission,) = await self.admit_all([InvalidRequest(envelope, target, lane, error)])
        return admission

    async def admit_all(self, received: Sequence[ValidRequest | InvalidRequest]) -> list[Admission]:
        """Admit requests in their order; the invalid ones become rejected imports.

        Safe to repeat. The server does nothing else meanwhile, for less than 0.1 ms per request.
        """
        requests = [script_request(each) for each in received]
        admissions = admissions_in(await self._lasting("admit", requests=requests))
        for admission in admissions:
            if admission.is_new and admission.item:
                self._observer.learned_of_end(admission.item)
        return admissions

    @translated
    async def conflicts(self, valid: Sequence[ValidRequest]) -> list[str]:
        """Return for each request the import that has its id or key with other members, or ''.

        Two round trips. Nothing is written, so another producer may still be faster.
        """
        keys = [digest(each.request.idempotency_key) for each in valid]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in filter(None, keys):
                pipeline.get(IDEMPOTENCY.on(self._redis) + key)
            with_key = iter(await pipeline.execute())
            earlier = [(key and next(with_key)) or "" for key in keys]
            for each, other in zip(valid, earlier, strict=True):
                for import_id in (each.envelope.import_id, other):
                    pipeline.hmget(IMPORT.on(self._redis) + import_id, "state", "fingerprint")
            found = iter(await pipeline.execute())
        return [
            conflict_of(each, other, next(found), next(found))
            for each, other in zip(valid, earlier, strict=True)
        ]

    async def announce_batch(
        self,
        batch_id: str,
        expected: int,
        rule: StopRule = NO_RULE,
        schedule: Schedule = AT_ONCE,
    ) -> None:
        """Keep the batch open until `expected` of its imports were admitted.

        The batch gets the stop rule that is given before its first import is admitted, and the
        schedule that is announced first.
        """
        await self._lasting(
            "announce_batch",
            batch_id=batch_id,
            expected=expected,
            canary=rule.canary,
            stop_percent=-1 if rule.stop_percent is None else rule.stop_percent,
            schedule=schedule.members(),
        )
        if schedule.window:
            await self.renew_openings()

    async def renew_openings(self) -> None:
        """Compute the openings of batches with a window whose time for it has come."""
        await renew_openings(self._scripts)

    async def close_batch(self, batch_id: str) -> None:
        """End the wait for imports that were announced but have not arrived. Safe to repeat."""
        await self._scripts.call("close_batch", batch_id=batch_id)

    async def claim(
        self, limit: int, *, slots: int | None = None, in_flight: Mapping[str, int] = NOTHING
    ) -> tuple[list[Claim], float | None]:
        """Claim up to `limit` calls that are due and granted.

        `in_flight` is the number of calls in progress in each lane, and `slots` the number of
        further calls that the conductor could make; no lane gets more than its share of them.
        Returns the claims, and the seconds until more calls are due; None if nothing is scheduled.
        A claim whose record can't be read is logged and left out. A claim that a failover could
        lose is not `lasting`; no start may be made on it.
        """
        taken_at = time.monotonic()
        reply, lasts = await self._scripts.call_replicated(
            "claim",
            limit=limit,
            lanes=LANES_AT_ONCE,
            lease_ms=self._lease_ms,
            slots=2 * limit if slots is None else slots,
            in_flight=dict(in_flight),
        )
        found, wait_seconds = claims_in(reply, taken_at)
        claims = found if lasts else [replace(claim, lasting=False) for claim in found]
        self._observer.claimed(claims, reply["expired"])
        return claims, wait_seconds

    async def record(
        self, claim: Claim, decision: Decision, observed: Observed = NOTHING_OBSERVED
    ) -> Recorded:
        """Record a decision, and what the answer shows about the lane.

        The import stays unchanged if the claim is no longer the caller's, because the lease has
        ended and another worker has taken over.
        """
        script, args = step_of(claim, decision)
        reply = await self._answers.record(script, answer_to(claim, decision, observed) | args)
        return recorded_in(reply, claim.item.id)

    async def grant_more(self, claim: Claim) -> float:
        """Grant a claim one more call; return 0, or the seconds until it may be granted."""
        reply = await self._scripts.call("grant_more", lane=claim.item.lane, grant=claim.grant)
        return float(reply["wait_ms"]) / 1000

    async def cancel(self, import_id: str, reason: str) -> Cancellation:
        """Cancel an import. If it has a job, the job continues."""
        return Cancellation((await self._lasting("cancel", id=import_id, reason=reason))["verdict"])

    async def resolve(
        self, import_id: str, action: Action, *, job_id: str = "", error: str = ""
    ) -> Resolution:
        """Carry out what an operator decided about an undecided import.

        `job_id` is the job to adopt, `error` the reason of an import that is ended as failed.
        """
        reply = await self._lasting(
            "resolve", id=import_id, action=action, job_id=job_id, error=error
        )
        return Resolution(reply["verdict"])

    async def retry(self, item: Import) -> Retried:
        """Admit a new import with the request of one that did not succeed. Safe to repeat.

        It joins the batch `item.retry_batch_id`, without any announcement.
        """
        names = filter(None, (item.retry_id, item.retry_batch_id))
        reply = await self._lasting(
            "retry",
            id=item.id,
            retry_id=item.retry_id,
            batch_id=item.retry_batch_id,
            fits=all(map(IDENTIFIER_PATTERN.fullmatch, names)),
        )
        return retried_in(reply)

    async def configure(
        self, defaults: LaneLimits, lanes: Mapping[str, LaneLimits], by: str
    ) -> list[str]:
        """Write the configured limits: those of these lanes, and the defaults for all other lanes.

        Returns the lanes whose configured limits have changed, '' for the defaults. Limits that an
        operator has set stay.
        """
        reply = await self._scripts.call(
            "configure",
            defaults=defaults.known(),
            lanes={name: limits.known() for name, limits in lanes.items()},
            limits=LaneLimits.names(),
            by=by,
        )
        return list(reply["changed"])

    async def publish_accounts(self, accounts: frozenset[str]) -> None:
        """Note the accounts, names or patterns, that the caller's worker accepts."""
        await self._scripts.call(
            "publish_accounts",
            accounts=sorted(accounts),
            memory_ms=milliseconds(ACCOUNT_MEMORY_SECONDS),
        )

    @translated
    async def accepted_accounts(self) -> frozenset[str]:
        """Return the names and patterns of the accounts that any worker accepts."""
        accounts: Any = await self._redis.zrange(ACCOUNTS.on(self._redis), 0, -1)
        return frozenset(accounts)

    async def sweep(self) -> list[str]:
        """Wake lanes that have work but are not scheduled; return their names.

        Also remove batches that have expired from the index, some of them with each call.
        """
        reply = await self._scripts.call("sweep", cursor=self._index_cursor)
        self._index_cursor = reply["cursor"]
        return list(reply["stranded"])

    async def overdue(self, limit: int, delay_seconds: float) -> list[Ended]:
        """Take up to `limit` ended imports whose tasks have not finished in time."""
        reply = await self._scripts.call(
            "overdue", limit=limit, delay_ms=milliseconds(delay_seconds)
        )
        ended = ended_in(reply)
        for each in ended:
            if each.is_new:
                self._observer.learned_of_end(each.item)
        return ended

    async def note_task_done(self, import_id: str, task_id: str) -> None:
        """Note that a task of an ended import has finished. Safe to repeat."""
        await self.note_tasks_done([(import_id, task_id, False)])

    async def note_tasks_done(self, done: Sequence[tuple[str, str, bool]]) -> None:
        """Note that tasks have finished, given as import id, task id, and whether it was created.

        A task that was finished as one that no producer sent stays unfinished if a producer did
        send it. Safe to repeat.
        """
        await self._scripts.call("note_tasks_done", done=done)

    @translated
    async def wait_for_hint(self, seconds: float) -> bool:
        """Wait up to `seconds` for a hint that work is due; hints may be lost."""
        return await self._redis.blpop([WAKE.on(self._redis)], timeout=seconds) is not None

    @translated
    async def load(self, import_id: str) -> Import | None:
        """Return an import; None if it is not known (any more)."""
        fields: Any = await self._redis.hgetall(IMPORT.on(self._redis) + import_id)
        return import_of(import_id, fields) if fields else None

    async def _lasting(self, script: str, **args: Any) -> Reply:
        """Run a script whose writes the caller relies on; raise if a failover could lose them."""
        reply, lasts = await self._scripts.call_replicated(script, **args)
        if not lasts:
            raise StoreUnavailableError("not all replicas have confirmed the write")
        return reply
