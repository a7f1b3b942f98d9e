"""The store that the engine writes through: a typed wrapper around each script."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from worker.domain.claims import Call, Claim, Doubt
from worker.domain.events import SOURCE
from worker.domain.facts import LaneFacts
from worker.domain.history import What
from worker.domain.imports import Import
from worker.domain.outcomes import (
    NO_RULE,
    Action,
    Admission,
    Cancellation,
    Ended,
    Entrance,
    LaneLimits,
    Resolution,
    Retried,
    RetryVerdict,
    StopRule,
    Verdict,
)
from worker.domain.requests import IDENTIFIER_PATTERN, ImportRequest
from worker.domain.states import State, sources_of
from worker.store.connection import StoreUnavailableError, translated
from worker.store.keys import FORMAT, IMPORT, WAKE
from worker.store.replication import ReplicatedScripts
from worker.store.scripts import Scripts

log = structlog.get_logger()

LANES_AT_ONCE: Final = 64
NOTHING: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """What the scripts must know."""

    retention_seconds: float
    events_max_length: int
    lease_seconds: float
    settle_seconds: float
    replicated: bool = False
    """Whether a replica may take over from the server."""

    def for_scripts(self) -> dict[str, Any]:
        """Return the configuration as the scripts name it."""
        return {
            "retention_ms": _ms(self.retention_seconds),
            "events_max_length": self.events_max_length,
            "lease_ms": _ms(self.lease_seconds),
            "settle_ms": _ms(self.settle_seconds),
            "source": SOURCE,
            "format": FORMAT,
        }


class ImportStore:
    """Writes the imports. Every method is one script, so one atomic step and one round trip.

    Methods that take a `Claim` return False (or None) when the claim is no longer the caller's: the
    lease ran out and somebody else has taken over. All raise StoreUnavailableError when the
    store can't be reached.
    """

    def __init__(self, redis: "Redis", config: StoreConfig) -> None:
        self._redis = redis
        self._lease_ms = _ms(config.lease_seconds)
        scripts = ReplicatedScripts if config.replicated else Scripts
        self._scripts = scripts(redis, config.for_scripts())

    async def admit(self, entrance: Entrance, request: ImportRequest, region: str) -> Admission:
        """Admit a valid request into the lane of its account and `region`. Safe to repeat."""
        reply = await self._lasting(
            "admit",
            id=entrance.import_id,
            task_id=entrance.task_id,
            signature=entrance.signature,
            idempotency=_digest(request.idempotency_key),
            recover_since_ms=entrance.recover_since_ms,
            fields=_fields_of(entrance, request, region),
        )
        return _admission(reply)

    async def reject(
        self, entrance: Entrance, target: tuple[str, str], lane: tuple[str, str], error: str
    ) -> Admission:
        """Record an invalid request as an import that ended `rejected`. Safe to repeat."""
        fields = {
            "app_id": target[0],
            "backend_environment_name": target[1],
            "account": lane[0],
            "region": lane[1],
            "error": error,
            **({"batch_id": entrance.batch_id} if entrance.batch_id else {}),
            **_wishes_of(entrance),
        }
        reply = await self._lasting(
            "reject",
            id=entrance.import_id,
            task_id=entrance.task_id,
            signature=entrance.signature,
            fields=fields,
        )
        return _admission(reply)

    async def announce_batch(self, batch_id: str, expected: int, rule: StopRule = NO_RULE) -> None:
        """Keep the batch open until `expected` of its imports were admitted.

        Its stop rule is the one that is given before the first of them is.
        """
        await self._lasting(
            "announce_batch",
            batch_id=batch_id,
            expected=expected,
            canary=rule.canary,
            stop_percent=-1 if rule.stop_percent is None else rule.stop_percent,
        )

    async def close_batch(self, batch_id: str) -> None:
        """Let a batch wait for no more imports than came; safe to repeat."""
        await self._scripts.call("close_batch", batch_id=batch_id)

    async def claim(
        self, limit: int, *, slots: int | None = None, in_flight: Mapping[str, int] = NOTHING
    ) -> tuple[list[Claim], float | None]:
        """Claim up to `limit` calls that are due and granted.

        `in_flight` says how many calls of each lane are on the way, `slots` how many more could be:
        no lane gets more than its share of them. Returns the claims, and the seconds until more
        falls due; None when nothing is scheduled. A claim whose record can't be read is left out:
        it is logged, and the others go on. A claim that a failover would forget is not `lasting`:
        a start must not be made on it.
        """
        taken_at = time.monotonic()
        (wait_ms, flat_facts, *replies), lasts = await self._scripts.call_replicated(
            "claim",
            limit=limit,
            lanes=LANES_AT_ONCE,
            lease_ms=self._lease_ms,
            slots=2 * limit if slots is None else slots,
            in_flight=dict(in_flight),
        )
        facts = {lane: LaneFacts.from_fields(_pairs(f)) for lane, f in _pairs(flat_facts).items()}
        found = [claim for reply in replies if (claim := _readable_claim(taken_at, reply, facts))]
        claims = found if lasts else [replace(claim, lasting=False) for claim in found]
        return claims, None if wait_ms < 0 else wait_ms / 1000

    async def run(
        self,
        claim: Claim,
        *,
        job_id: str,
        operation: str,
        status: str,
        delay_seconds: float,
        created_seconds_ago: float = 0.0,
        updated: str = "",
    ) -> bool:
        """Keep the jobId of a started import and schedule its first poll.

        `created_seconds_ago` is told of a job that was found; of an import that was lost, nobody
        knows better when it began.
        """
        return await self._change(
            "run",
            claim,
            job_id=job_id,
            operation=operation,
            status=status,
            updated=updated,
            delay_ms=_ms(delay_seconds),
            created_ms_ago=_ms(created_seconds_ago),
        )

    async def finish(
        self, claim: Claim, state: State, *, error: str, job_id: str, operation: str, status: str
    ) -> Ended | None:
        """End an import; texts that are empty leave what is known."""
        reply = await self._scripts.call(
            "finish",
            **_answer_to(claim),
            state=state,
            sources=sorted(sources_of(state)),
            error=error,
            job_id=job_id,
            operation=operation,
            status=status,
        )
        return _ended(claim.item.id, reply[1], reply[2]) if reply else None

    async def requeue(
        self,
        claim: Claim,
        *,
        delay_seconds: float = 0.0,
        counted: bool = False,
        conflict: bool = False,
        error: str = "",
        why: What = What.GIVEN_BACK,
        listed_jobs: Sequence[str] | None = None,
    ) -> bool:
        """Let an import wait for another start, in its old place in the lane.

        `why` is what its history says of a start that is neither counted nor a conflict. With
        NOT_STARTED, AWS was asked for the target's jobs: `listed_jobs`, None where it refused.
        """
        return await self._change(
            "requeue",
            claim,
            delay_ms=_ms(delay_seconds),
            counted=counted,
            conflict=conflict,
            error=error,
            why=why,
            has_listed=why is What.NOT_STARTED,
            listed_jobs="" if listed_jobs is None else json.dumps(sorted(listed_jobs)),
        )

    async def reschedule(
        self,
        claim: Claim,
        *,
        delay_seconds: float = 0.0,
        status: str = "",
        operation: str = "",
        counted: bool = False,
        stuck: bool = False,
        settled: bool = False,
        updated: str = "",
        suspicion: str = "",
    ) -> bool:
        """Ask again after a while: the next poll, or the next inquiry of an import in doubt.

        `settled` says that the job was seen, so that no doubt is left; `updated` is its updateTime
        as it was written. `suspicion` says why its status may be final.
        """
        return await self._change(
            "reschedule",
            claim,
            delay_ms=_ms(delay_seconds),
            status=status,
            operation=operation,
            counted=counted,
            stuck=stuck,
            settled=settled,
            updated=updated,
            suspicion=suspicion,
        )

    async def note_late(self, claim: Claim, *, outcome: str, status: str, error: str) -> bool:
        """Note how the job of an import that is over ended after all: it is followed no longer."""
        return await self._change("note_late", claim, outcome=outcome, status=status, error=error)

    async def doubt(
        self,
        claim: Claim,
        doubt: Doubt,
        *,
        error: str,
        delay_seconds: float,
        in_outage: bool,
        undecided: str = "",
        unclear_jobs: Sequence[str] = (),
    ) -> bool:
        """Note a doubt, to be resolved by asking the remote side after a while.

        `in_outage` says that nobody is answered: the attempt does not count then. `undecided` says
        why a person has to decide, `unclear_jobs` which jobs may be the import's own.
        """
        return await self._change(
            "doubt",
            claim,
            doubt=doubt,
            error=error,
            delay_ms=_ms(delay_seconds),
            in_outage=in_outage,
            undecided=undecided,
            unclear_jobs=json.dumps(unclear_jobs),
        )

    async def learn(self, lane: str, facts: LaneFacts) -> None:
        """Keep what a lane has shown of AWS; what several workers learn adds up."""
        await self._scripts.call("learn", lane=lane, facts=facts.to_fields())

    async def throttle_lane(
        self,
        claim: Claim,
        *,
        retry_after_seconds: float | None,
        limit_type: str,
        concurrent: bool,
    ) -> tuple[bool, str]:
        """Let the lane's limiter learn from a 429, or its ceiling where jobs are too many.

        Returns whether it counts (late ones of one storm count once), and what is kept to now, as
        people read it.
        """
        counted, kept = await self._scripts.call(
            "throttle_lane",
            lane=claim.item.lane,
            call=claim.call,
            grant=claim.grant,
            retry_after_ms=_ms(retry_after_seconds or 0.0),
            limit_type=limit_type,
            concurrent=concurrent,
        )
        return bool(counted), str(kept)

    async def grant_more(self, claim: Claim) -> float:
        """Grant a claim one more call; return 0, or the seconds until it may be granted."""
        wait_ms = await self._scripts.call("grant_more", lane=claim.item.lane, grant=claim.grant)
        return float(wait_ms) / 1000

    async def pause_lane(
        self,
        lane: str,
        reason: str,
        *,
        probe: bool,
        delay_seconds: float,
        delay_max_seconds: float,
    ) -> bool:
        """Pause a lane, or keep it paused after a failed probe; True when it was not before."""
        return bool(
            await self._scripts.call(
                "pause_lane",
                lane=lane,
                reason=reason,
                probe=probe,
                delay_ms=_ms(delay_seconds),
                delay_max_ms=_ms(delay_max_seconds),
            )
        )

    async def resume_lane(self, lane: str) -> bool:
        """Reopen a lane; True when it was paused."""
        return bool(await self._scripts.call("resume_lane", lane=lane))

    async def cancel(self, import_id: str, reason: str) -> Cancellation:
        """Cancel an import; its job, where it has one, goes on at the remote side."""
        return Cancellation(await self._lasting("cancel", id=import_id, reason=reason))

    async def resolve(
        self, import_id: str, action: Action, *, job_id: str = "", error: str = ""
    ) -> Resolution:
        """Carry out what a person decided of an import that waits for it.

        `job_id` is what to adopt, `error` the reason of one that is called failed.
        """
        reply = await self._lasting(
            "resolve", id=import_id, action=action, job_id=job_id, error=error
        )
        return Resolution(reply)

    async def retry(self, item: Import) -> Retried:
        """Admit a new import of the request of one that ended badly. Safe to repeat.

        It joins the batch `item.retry_batch_id`, without any announcement.
        """
        names = filter(None, (item.retry_id, item.retry_batch_id))
        verdict, retry_id = await self._lasting(
            "retry",
            id=item.id,
            retry_id=item.retry_id,
            batch_id=item.retry_batch_id,
            fits=all(map(IDENTIFIER_PATTERN.fullmatch, names)),
        )
        return Retried(RetryVerdict(verdict), retry_id)

    async def count_failure(self, lane: str, weight: int) -> int:
        """Count a call without an answer that makes sense; return the weights in a row."""
        return int(await self._scripts.call("count_failure", lane=lane, weight=weight))

    async def configure(
        self, defaults: LaneLimits, lanes: Mapping[str, LaneLimits], by: str
    ) -> list[str]:
        """Write the limits that are configured: of these lanes, and of all that have none.

        Returns the lanes whose configured limits were others before, '' for the defaults. What was
        set by hand stays.
        """
        changed = await self._scripts.call(
            "configure",
            defaults=defaults.known(),
            lanes={name: limits.known() for name, limits in lanes.items()},
            by=by,
        )
        return [str(name) for name in changed]

    async def sweep(self) -> list[str]:
        """Wake lanes that have work and that nobody was going to look at; return their names."""
        return [str(name) for name in await self._scripts.call("sweep")]

    async def overdue(self, limit: int, delay_seconds: float) -> list[Ended]:
        """Take up to `limit` ended imports whose tasks have not finished in time."""
        reply = await self._scripts.call("overdue", limit=limit, delay_ms=_ms(delay_seconds))
        return [_ended(*ended) for ended in reply]

    async def settle(self, import_id: str, task_id: str) -> None:
        """Note that a task has finished natively. Safe to repeat."""
        await self._scripts.call("settle", id=import_id, task_id=task_id)

    @translated
    async def wait_for_hint(self, seconds: float) -> bool:
        """Wait up to `seconds` for a hint that work is due; hints may be lost."""
        return await self._redis.blpop([WAKE.name], timeout=seconds) is not None

    @translated
    async def load(self, import_id: str) -> Import | None:
        """Return an import, None when it is not known (any more)."""
        fields: Any = await self._redis.hgetall(IMPORT.name + import_id)
        return Import.from_fields(import_id, fields) if fields else None

    async def _lasting(self, script: str, **args: Any) -> Any:
        """Write what somebody will rely on who is told of it."""
        reply, lasts = await self._scripts.call_replicated(script, **args)
        if not lasts:
            raise StoreUnavailableError("not all replicas have confirmed the write")
        return reply

    async def _change(self, script: str, claim: Claim, **args: Any) -> bool:
        return bool(await self._scripts.call(script, **_answer_to(claim), **args))


def _answer_to(claim: Claim) -> dict[str, Any]:
    """Return what every script is told of the call whose answer it records."""
    return {
        "id": claim.item.id,
        "lease": claim.lease,
        "call": claim.call,
        "grant": claim.grant,
        "answered": claim.answered,
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _digest(key: str | None) -> str:
    return sha256(key.encode()).hexdigest() if key else ""


def _fields_of(entrance: Entrance, request: ImportRequest, region: str) -> dict[str, str]:
    batch_id = entrance.batch_id or request.batch_id
    return {
        "app_id": request.app_id,
        "backend_environment_name": request.backend_environment_name,
        "account": request.account,
        "region": region,
        "request_json": request.to_json(),
        "fingerprint": request.fingerprint,
        "priority": request.priority,
        "metadata": json.dumps(request.metadata),
        **({"batch_id": batch_id} if batch_id else {}),
        **_wishes_of(entrance),
    }


def _wishes_of(entrance: Entrance) -> dict[str, str]:
    wishes = {
        "not_before_ms": entrance.not_before_ms,
        "expires_at_ms": entrance.expires_at_ms,
        "ignores_result": int(entrance.ignores_result),
    }
    return {name: str(value) for name, value in wishes.items() if value}


def _pairs(flat: Sequence[Any]) -> Mapping[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _admission(reply: Sequence[str]) -> Admission:
    verdict, import_id, *flat = reply
    item = Import.from_fields(import_id, _pairs(flat)) if flat else None
    return Admission(Verdict(verdict), import_id, item)


def _readable_claim(
    taken_at: float, reply: Sequence[Any], facts: Mapping[str, LaneFacts]
) -> Claim | None:
    try:
        claim = _claim(taken_at, *reply)
        return replace(claim, facts=facts.get(claim.item.lane, claim.facts))
    except (KeyError, ValueError) as error:
        # Its lease runs out, and it is tried again: somebody may mend the record.
        log.error(  # noqa: TRY400 - what is wrong is the record, not the code
            "record.unreadable", import_id=reply[1], error=repr(error)
        )
        return None


def _claim(
    taken_at: float,
    call: str,
    import_id: str,
    lease: str,
    age_ms: int,
    probe: int,
    grant: str,
    earlier_jobs: str,
    flat: Sequence[str],
) -> Claim:
    return Claim(
        call=Call(call),
        lease=lease,
        item=Import.from_fields(import_id, _pairs(flat)),
        age_seconds=age_ms / 1000,
        grant=grant,
        taken_at=taken_at,
        probe=bool(probe),
        earlier_jobs=frozenset(json.loads(earlier_jobs)),
    )


def _ended(import_id: str, record: Sequence[str], tasks: Sequence[str]) -> Ended:
    return Ended(Import.from_fields(import_id, _pairs(record)), _pairs(tasks))
