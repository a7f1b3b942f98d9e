"""The store that the engine writes through: a typed wrapper around each script."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from redis.asyncio import Redis

from worker.domain.decisions import Call, Claim, Doubt
from worker.domain.events import SOURCE
from worker.domain.imports import Import
from worker.domain.outcomes import Admission, Ended, Entrance, LaneLimits, Verdict
from worker.domain.requests import ImportRequest, Priority
from worker.domain.states import State, sources_of
from worker.store.connection import translated
from worker.store.keys import IMPORT, LANE, WAKE
from worker.store.scripts import Scripts

PRIORITY_RANK: Final = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
LANES_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """What the scripts must know. Rates are calls per second, used where a lane has none."""

    retention_seconds: float
    events_max_length: int
    lease_seconds: float
    settle_seconds: float
    start_rate: float
    start_burst: float
    poll_rate: float
    poll_burst: float

    def for_scripts(self) -> dict[str, Any]:
        """Return the configuration as `lib.lua` names it."""
        return {
            "retention_ms": _ms(self.retention_seconds),
            "events_max_length": self.events_max_length,
            "lease_ms": _ms(self.lease_seconds),
            "settle_ms": _ms(self.settle_seconds),
            "source": SOURCE,
            "rate": {"start": self.start_rate, "poll": self.poll_rate},
            "burst": {"start": self.start_burst, "poll": self.poll_burst},
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
        self._scripts = Scripts(redis, config.for_scripts())

    async def admit(self, entrance: Entrance, request: ImportRequest, region: str) -> Admission:
        """Admit a valid request into the lane of its account and `region`. Safe to repeat."""
        reply = await self._scripts.call(
            "admit",
            id=entrance.import_id,
            task_id=entrance.task_id,
            signature=entrance.signature,
            priority=PRIORITY_RANK[request.priority],
            idempotency=_digest(request.idempotency_key),
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
        }
        reply = await self._scripts.call(
            "reject",
            id=entrance.import_id,
            task_id=entrance.task_id,
            signature=entrance.signature,
            fields=fields,
        )
        return _admission(reply)

    async def announce_batch(self, batch_id: str, expected: int) -> None:
        """Keep the batch open until `expected` of its imports were admitted."""
        await self._scripts.call("announce_batch", batch_id=batch_id, expected=expected)

    async def claim(self, limit: int) -> tuple[list[Claim], float | None]:
        """Claim up to `limit` calls that are due and granted.

        Returns the claims, and the seconds until more falls due; None when nothing is scheduled.
        """
        taken_at = time.monotonic()
        wait_ms, *claims = await self._scripts.call(
            "claim", limit=limit, lanes=LANES_AT_ONCE, lease_ms=self._lease_ms
        )
        return [
            _claim(taken_at, *claim) for claim in claims
        ], None if wait_ms < 0 else wait_ms / 1000

    async def run(
        self, claim: Claim, *, job_id: str, operation: str, status: str, delay_seconds: float
    ) -> bool:
        """Keep the jobId of a started import and schedule its first poll."""
        return await self._change(
            "run",
            claim,
            call=bucket_of(claim.call),
            job_id=job_id,
            operation=operation,
            status=status,
            delay_ms=_ms(delay_seconds),
        )

    async def finish(
        self, claim: Claim, state: State, *, error: str, job_id: str, operation: str, status: str
    ) -> Ended | None:
        """End an import; texts that are empty leave what is known."""
        reply = await self._scripts.call(
            "finish",
            id=claim.item.id,
            lease=claim.lease,
            call=bucket_of(claim.call),
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
    ) -> bool:
        """Let an import wait for another start, in its old place in the lane."""
        return await self._change(
            "requeue",
            claim,
            delay_ms=_ms(delay_seconds),
            counted=counted,
            conflict=conflict,
            error=error,
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
        answered: bool = False,
    ) -> bool:
        """Ask again after a while: the next poll, or the next inquiry of an import in doubt."""
        return await self._change(
            "reschedule",
            claim,
            call=bucket_of(claim.call),
            delay_ms=_ms(delay_seconds),
            status=status,
            operation=operation,
            counted=counted,
            stuck=stuck,
            answered=answered,
        )

    async def doubt(self, claim: Claim, doubt: Doubt, *, error: str, delay_seconds: float) -> bool:
        """Note a doubt, to be resolved by asking the remote side after a while."""
        return await self._change(
            "doubt", claim, doubt=doubt, error=error, delay_ms=_ms(delay_seconds)
        )

    async def throttle_lane(
        self,
        lane: str,
        call: Call,
        *,
        granted_seconds_ago: float,
        retry_after_seconds: float | None,
        limit_type: str,
        backoff_seconds: float,
        backoff_max_seconds: float,
    ) -> float:
        """Block the lane's calls of one class after a 429; return for how many seconds."""
        blocked_ms = await self._scripts.call(
            "throttle_lane",
            lane=lane,
            call=bucket_of(call),
            granted_ms_ago=_ms(granted_seconds_ago),
            retry_after_ms=-1 if retry_after_seconds is None else _ms(retry_after_seconds),
            limit_type=limit_type,
            backoff_ms=_ms(backoff_seconds),
            backoff_max_ms=_ms(backoff_max_seconds),
        )
        return float(blocked_ms) / 1000

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

    async def count_unreachable(self, lane: str) -> int:
        """Count one more call in a row that found nobody; return the count."""
        return int(await self._scripts.call("count_unreachable", lane=lane))

    @translated
    async def configure_lanes(self, lanes: Mapping[str, LaneLimits]) -> None:
        """Write the lanes' known limits; every other lane falls back to the defaults."""
        keys = [key async for key in self._redis.scan_iter(f"{LANE.name}*")]
        seen = {key.removeprefix(LANE.name) for key in keys}
        for lane in seen | lanes.keys():
            limits = asdict(lanes.get(lane, LaneLimits()))
            fields = {name: False if value is None else value for name, value in limits.items()}
            await self._scripts.call("configure_lane", lane=lane, limits=fields)

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

    async def _change(self, script: str, claim: Claim, **args: Any) -> bool:
        return bool(await self._scripts.call(script, id=claim.item.id, lease=claim.lease, **args))


def bucket_of(call: Call) -> Call:
    """Return the class of calls whose limit a call counts against: lists are read like polls."""
    return Call.START if call is Call.START else Call.POLL


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
        "metadata": json.dumps(request.metadata),
        **({"batch_id": batch_id} if batch_id else {}),
    }


def _pairs(flat: Sequence[str]) -> Mapping[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _admission(reply: Sequence[str]) -> Admission:
    verdict, import_id, *flat = reply
    item = Import.from_fields(import_id, _pairs(flat)) if flat else None
    return Admission(Verdict(verdict), import_id, item)


def _claim(
    taken_at: float,
    call: str,
    import_id: str,
    lease: str,
    age_ms: int,
    probe: int,
    earlier_job_id: str,
    flat: Sequence[str],
) -> Claim:
    return Claim(
        call=Call(call),
        lease=lease,
        item=Import.from_fields(import_id, _pairs(flat)),
        age_seconds=age_ms / 1000,
        taken_at=taken_at,
        probe=bool(probe),
        earlier_job_id=earlier_job_id,
    )


def _ended(import_id: str, record: Sequence[str], tasks: Sequence[str]) -> Ended:
    return Ended(Import.from_fields(import_id, _pairs(record)), _pairs(tasks))
