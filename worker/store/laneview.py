"""A lane as it stands: its limits and their sources, its queues, its pause."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from worker.domain.facts import LaneFacts, Times
from worker.domain.requests import Priority
from worker.store.keys import DEFAULTS, DELAYED, FACTS, LANE, LEASES, LIMITER, POLLS, WAITING


class Source(StrEnum):
    """Where a limit comes from."""

    OPERATOR = "by hand"
    LANE = "configured"
    DEFAULT = "default"
    LEARNED = "learned"
    UNKNOWN = "not known yet"


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit in force: calls per second, or calls at once; None if it is unknown."""

    value: float | None
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limit of one class of calls: `start`, `poll`, or `shared` if both have one limit.

    `pace` is the calls per second that are granted now, and `granted` how many were granted so far.
    `blocked_seconds` is how long AWS asked to receive no calls.
    """

    rate: Limit
    burst: Limit
    pace: float
    granted: int
    blocked_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttling:
    """A lane's 429s: their number, and the last one; `limit_type` is '' if AWS named none."""

    total: int
    call: str
    limit_type: str
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class Change:
    """Who changed a lane's limits last, and how long ago."""

    by: str
    seconds_ago: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """A lane at one moment. Times are seconds from that moment; 0 if nothing has to pass.

    `queued` counts the imports that wait for their turn, by priority; `waiting` also counts the
    delayed ones. `running` counts the imports under `max_running`. `fields` is the lane's hash,
    `defaults` the hash of all lanes, and `facts` what the lane has shown of AWS. `read_at_ms` is
    the moment, on the store's clock.
    """

    name: str
    waiting: int
    running: int
    paused_reason: str
    paused_seconds: float
    fields: Mapping[str, str]
    defaults: Mapping[str, str] = field(default_factory=dict)
    facts: LaneFacts = field(default_factory=LaneFacts)
    limiters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    queued: Mapping[Priority, int] = field(default_factory=dict)
    read_at_ms: float = 0.0

    @property
    def delayed(self) -> int:
        """How many imports may not start before a certain time."""
        return self.waiting - sum(self.queued.values())

    @property
    def paused_by_operator(self) -> bool:
        """Whether an operator paused the lane, so that only an operator resumes it."""
        return "held" in self.fields

    @property
    def shared(self) -> bool:
        """Whether starts and polls have one budget."""
        return self._configured("shared").value == 1

    @property
    def start_share(self) -> float | None:
        """The share of a shared budget that starts keep while polls are due; None if not set."""
        return self._configured("start_share").value

    @property
    def max_running(self) -> int | None:
        """How many unfinished jobs operators allow; None if there is no limit."""
        most = self._configured("max_running").value
        return None if most is None else int(most)

    @property
    def ceiling(self) -> int | None:
        """How many unfinished jobs AWS allows, as far as its refusals show."""
        ceiling = self.fields.get("ceiling")
        return None if ceiling is None else int(float(ceiling))

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budgets of the lane's calls, by class."""
        classes = ("shared",) if self.shared else ("start", "poll")
        return {name: self._budget(name) for name in classes}

    @property
    def start_budget(self) -> Budget:
        """The budget that starts are made from."""
        return self._budget("shared" if self.shared else "start")

    @property
    def start_blocked_seconds(self) -> float:
        """How long AWS asked to receive no starts."""
        return self.start_budget.blocked_seconds

    @property
    def is_unknown(self) -> bool:
        """Whether the lane has shown nothing yet, so that only few of its imports run at once."""
        return self.facts.times is Times.UNKNOWN

    @property
    def is_throttled(self) -> bool:
        """Whether AWS asked to receive no calls."""
        return any(budget.blocked_seconds for budget in self.budgets.values())

    @property
    def paused_seconds_ago(self) -> float | None:
        """How long the lane has been paused."""
        return self._seconds_since(self.fields.get("paused_at_ms"))

    @property
    def ceiling_is_suspected(self) -> bool:
        """Whether the ceiling is concluded from 429s that name no such limit."""
        return "ceiling_suspected" in self.fields

    @property
    def throttling(self) -> Throttling | None:
        """The lane's 429s; None if there were none."""
        seconds_ago = self._seconds_since(self.fields.get("last_429_at_ms"))
        if seconds_ago is None:
            return None
        return Throttling(
            total=int(self.fields.get("throttled", 0)),
            call=self.fields.get("last_429_call", "call"),
            limit_type=self.fields.get("last_429_limit_type", ""),
            seconds_ago=seconds_ago,
        )

    @property
    def set_by_operator(self) -> Change | None:
        """The last change of limits by an operator that is in force."""
        return self._change(self.fields, "hand_by", "hand_at_ms")

    @property
    def configured(self) -> Change | None:
        """The last configuration that a worker wrote: the lane's, or that of all lanes."""
        of_lane = "configured_by" in self.fields
        fields = self.fields if of_lane else self.defaults
        return self._change(fields, "configured_by", "configured_at_ms")

    def turn_of(self, priority: Priority) -> float | None:
        """Return the turn of a priority's next import; None if the priority had none yet."""
        turn = self.fields.get(f"turn_{priority}")
        return float(turn) if turn else None

    @property
    def turn(self) -> float:
        """The lane's current turn."""
        return float(self.fields.get("turn", 0))

    @property
    def is_configured(self) -> bool:
        """Whether a limit in force comes from a worker's configuration."""
        names = (f"{budget}_{limit}" for budget in self.budgets for limit in ("rate", "burst"))
        return any(
            self._configured(name).source in {Source.LANE, Source.DEFAULT}
            for name in (*names, "max_running")
        )

    @property
    def account(self) -> str:
        """The AWS profile that the lane's calls use."""
        return self.name.rpartition("/")[0]

    def _change(self, fields: Mapping[str, str], by: str, at_ms: str) -> Change | None:
        seconds_ago = self._seconds_since(fields.get(at_ms))
        return None if seconds_ago is None else Change(fields.get(by, ""), seconds_ago)

    def _seconds_since(self, milliseconds: str | None) -> float | None:
        if milliseconds is None:
            return None
        return max(0.0, (self.read_at_ms - float(milliseconds)) / 1000)

    def _configured(self, name: str) -> Limit:
        for source, value in (
            (Source.OPERATOR, self.fields.get(f"hand_{name}")),
            (Source.LANE, self.fields.get(name)),
            (Source.DEFAULT, self.defaults.get(name)),
        ):
            if value is not None:
                return Limit(float(value), source)
        return Limit(None, Source.UNKNOWN)

    def _budget(self, name: str) -> Budget:
        limiter = _numbers(self.limiters.get(name, {}))
        rate, burst = self._configured(f"{name}_rate"), self._configured(f"{name}_burst")
        learned = limiter.get("rate") if limiter.get("learned") else None
        if rate.value is None and learned:
            rate = Limit(learned, Source.LEARNED)
        if burst.value is None and limiter.get("burst"):
            burst = Limit(limiter["burst"], Source.LEARNED)
        pace = limiter.get("rate" if limiter.get("mode") else "pace", rate.value or 0.0)
        return Budget(
            rate=rate,
            burst=burst,
            pace=pace if rate.source is Source.LEARNED else min(pace, rate.value or pace),
            granted=int(limiter.get("granted", 0)),
            blocked_seconds=max(0.0, (limiter.get("blocked_until", 0.0) - self.read_at_ms) / 1000),
        )


def _numbers(fields: Mapping[str, str]) -> dict[str, float]:
    """Return a limiter's fields; none if it is damaged, because it starts anew then."""
    try:
        return {name: float(value) for name, value in fields.items()}
    except ValueError:
        return {}


_CLASSES: Final = ("start", "poll", "shared")
_QUEUES: Final = (
    *((WAITING, f":{priority}") for priority in Priority),
    (DELAYED, ""),
    (POLLS, ""),
    (LEASES, ""),
)
LANE_REPLIES: Final = 4 + len(_CLASSES) + len(_QUEUES)


def read_lane(pipeline: Any, name: str) -> None:
    """Queue the LANE_REPLIES commands that read a lane; `lane_view` reads their replies."""
    pipeline.time()  # the lane's times are on the server's clock
    pipeline.hgetall(LANE.on(pipeline) + name)
    pipeline.hgetall(DEFAULTS.on(pipeline))
    pipeline.hgetall(FACTS.on(pipeline) + name)
    for of_calls in _CLASSES:
        pipeline.hgetall(f"{LIMITER.on(pipeline)}{name}:{of_calls}")
    for queue, suffix in _QUEUES:
        pipeline.zcard(f"{queue.on(pipeline)}{name}{suffix}")


def lane_view(name: str, replies: Any) -> LaneView:
    """Return a lane from the replies to `read_lane`."""
    time, fields, defaults, facts, *more = replies
    *waiting, polls, leases = more[len(_CLASSES) :]
    return LaneView(
        name=name,
        waiting=sum(waiting),
        running=polls + leases,
        paused_reason=fields.get("paused_reason", ""),
        paused_seconds=seconds_until(fields.get("paused_until_ms"), time),
        fields=fields,
        defaults=defaults,
        facts=LaneFacts.from_fields(facts),
        limiters=dict(zip(_CLASSES, more, strict=False)),
        queued=dict(zip(Priority, waiting, strict=False)),
        read_at_ms=time[0] * 1000 + time[1] / 1000,
    )


def seconds_until(milliseconds: Any, time: tuple[int, int]) -> float:
    """Return the seconds from the server's `time` to the time in a field; 0 for none."""
    seconds, microseconds = time
    return max(0.0, float(milliseconds or 0) / 1000 - seconds - microseconds / 1e6)
