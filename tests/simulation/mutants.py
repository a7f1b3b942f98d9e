"""Mutants that each break a promise: the simulation must detect all of them.

A mutant is the product with a few words of its scripts, or one of its rules, replaced.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

from redis import Redis

from tests.simulation.seed_run import run_seed
from worker.domain.answers import Answer, Kind
from worker.domain.claims import Call, Claim
from worker.domain.decisions import Decision, End, Retry
from worker.domain.evidence import Findings
from worker.domain.imports import Import
from worker.domain.policy import Policy
from worker.domain.rules import decide_poll, decide_start
from worker.domain.states import State
from worker.engine import advance
from worker.operations.backend_operation import BackendOperation
from worker.operations.http import Page, Response, read_page

Changes = tuple[tuple[str, str], ...]
Decide = Callable[[Answer, Claim, Policy, float], Decision]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A defect: `scripts` are replacements in the scripts' texts, `rules` replace decisions.

    `functions` are names and the functions that replace them. `seed` is the first seed that detects
    the mutant (`python -m tests.simulation --mutants` finds it).
    """

    name: str
    seed: int
    scripts: Changes = ()
    rules: Mapping[Call, Decide] = field(default_factory=dict)
    functions: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace the functions and rules for the length of the context."""
        with ExitStack() as stack:
            stack.enter_context(patch.dict(advance._DECIDE, self.rules))  # noqa: SLF001 - the engine's table
            for name, function in self.functions.items():
                stack.enter_context(patch(name, function))
            yield


def is_detected(mutant: Mutant, seed: int, redis: "Redis", url: str) -> bool:
    """Return whether the mutant breaks a promise in this seed and the product does not."""
    with mutant.active():
        mutated = run_seed(seed, redis, url, mutant.scripts, MAX_WAIT_SECONDS)
    return (
        bool(mutated.violations) and not run_seed(seed, redis, url, (), MAX_WAIT_SECONDS).violations
    )


def _start_when(kind: Kind, decision: Decision) -> Mapping[Call, Decide]:
    return {Call.START: lambda a, c, p, j: decision if a.kind is kind else decide_start(a, c, p, j)}


def _poll_when(kind: Kind, decision: Decision) -> Mapping[Call, Decide]:
    return {Call.POLL: lambda a, c, p, j: decision if a.kind is kind else decide_poll(a, c, p, j)}


async def _submit_late(operation: BackendOperation, item: Import, _send_by: float) -> Answer:
    return await SUBMIT(operation, item, math.inf)


def _first_page(response: Response) -> Page | Answer:
    page = read_page(response)
    return Page(page.jobs, "") if isinstance(page, Page) else page


def _take_any(jobs: Any, *_: Any) -> Findings:
    return Findings(ours=next(iter(jobs), None), unclear=(), pending=False)


MAX_WAIT_SECONDS: Final = 300.0
"""Most seeds take less time, and a mutant that is stuck need not run for long."""

SUBMIT: Final = BackendOperation.submit
RETRY: Final = Retry(0.5, "again")
LEASE_COMPARED: Final = "if record.lease ~= lease then"

MUTANTS: Final = (
    # Only the holder of the lease may change an import.
    Mutant(
        name="the lease is not compared",
        seed=4,
        scripts=((LEASE_COMPARED, "if not record.state then"),),
    ),
    Mutant(
        name="a late finish is accepted",
        seed=1,
        scripts=(
            (LEASE_COMPARED, "if not record.state then"),
            ("(record and record.state == source)", "record ~= nil"),
        ),
    ),
    Mutant(
        name="a claim without an answer is forgotten",
        seed=1,
        scripts=(("KEY.leases .. lane_name, '-inf', now,", "KEY.leases .. lane_name, '-inf', 0,"),),
    ),
    Mutant(
        name="a claimed poll stays due",
        seed=2,
        scripts=(("redis.call('ZREM', queue .. lane_name, id)\n      local grant", "local grant"),),
    ),
    Mutant(
        name="a start is sent after its lease",
        seed=50,
        functions={
            "worker.operations.backend_operation.BackendOperation.submit": _submit_late,
        },
    ),
    # One job for each import: an unknown outcome is reconciled.
    Mutant(
        name="an unknown outcome is not reconciled", seed=4, rules=_start_when(Kind.UNKNOWN, RETRY)
    ),
    Mutant(
        name="a refused connection is taken for no effect",
        seed=8,
        rules=_start_when(Kind.UNREACHABLE, RETRY),
    ),
    Mutant(
        name="a start without an answer is taken for not made",
        seed=59,
        scripts=(
            (
                "fields = { doubt = 'unknown', doubt_error = SAY.silent,",
                "fields = { doubt = 'before',",
            ),
            (
                "doubts = tonumber(record.doubts or 0) + 1 }\n      end\n      imports",
                "}\n      end\n      imports",
            ),
        ),
    ),
    Mutant(
        name="jobs are listed before the list can show the job",
        seed=10,
        functions={"worker.domain.rules._settle_seconds": lambda *_: 0.0},
    ),
    Mutant(
        name="the first page of a list is taken for all of it",
        seed=16,
        functions={"worker.operations.backend_operation.read_page": _first_page},
    ),
    Mutant(
        name="any job of the target is taken for the import's own",
        seed=3,
        functions={"worker.domain.rules.examine": _take_any},
    ),
    # One active import for each target, and a turn for each import.
    Mutant(
        name="a target is not held",
        seed=1,
        scripts=(("redis.call('HSET', KEY.target .. target, 'holder', id)", ""),),
    ),
    Mutant(
        name="a target is never free again",
        seed=1,
        scripts=(("redis.call('HDEL', key, 'holder')", ""),),
    ),
    Mutant(
        name="an import that waits for a target is not woken",
        seed=1,
        scripts=(("redis.call('ZPOPMIN', KEY.parked .. target)[1]", "nil"),),
    ),
    # Every import ends once, with its true outcome.
    Mutant(
        name="a retry loses its import",
        seed=1,
        scripts=(("else\n    queues.requeue(args.id, record)\n  end", "end"),),
    ),
    Mutant(
        name="an end has no event",
        seed=1,
        scripts=(("base.append_import_event(state, id, record, now)", ""),),
    ),
    Mutant(
        name="an end has two events",
        seed=1,
        scripts=(
            (
                "base.append_import_event(state, id, record, now)",
                "base.append_import_event(state, id, record, now)" * 2,
            ),
        ),
    ),
    Mutant(
        name="a batch is not completed",
        seed=1,
        scripts=(("    batches.complete_batch(record, now)\n", ""),),
    ),
    Mutant(
        name="a task never finishes",
        seed=3,
        scripts=(("redis.call('ZADD', KEY.unfinished, now + CONFIG.lease_ms, id)", ""),),
    ),
    Mutant(
        name="a new job that is not found is taken for failed",
        seed=2,
        rules=_poll_when(Kind.NOT_FOUND, End(State.FAILED, "no such job")),
    ),
    Mutant(
        name="expired credentials are taken for a refusal",
        seed=74,
        rules=_start_when(Kind.CREDENTIALS, End(State.REJECTED, "expired")),
    ),
    Mutant(
        name="a job that is pending is taken for a refusal",
        seed=3,
        rules=_start_when(Kind.CONFLICT, End(State.REJECTED, "pending")),
    ),
    Mutant(
        name="the deadline is forgotten",
        seed=8,
        functions={"worker.domain.rules.deadline_of": lambda *_: math.inf},
    ),
    # Each end is counted once.
    Mutant(
        name="an end is learned of again by each worker that finishes the tasks",
        seed=92,
        scripts=(("is_new = due_ms <= tonumber(record.finished_at_ms)", "is_new = true"),),
    ),
    # No more calls than were granted.
    Mutant(
        name="a grant is not counted",
        seed=48,
        scripts=(("limiter.tokens = limiter.tokens - 1", ""),),
    ),
    # A batch obeys its schedule.
    Mutant(
        name="a batch starts outside its window",
        seed=2,
        scripts=(("return math.max(at, opening[1])", "return at"),),
    ),
    Mutant(
        name="an import that comes to a start after its window has closed is started",
        seed=8,
        scripts=(("if ready_at > now or (gate", "if (gate"),),
    ),
    Mutant(
        name="a start does not count for its hour",
        seed=2,
        scripts=(("schedules.count_start(schedule, now)", ""),),
    ),
    Mutant(
        name="a batch is not looked at when its window opens",
        seed=1,
        scripts=(("batches.release_scheduled(now)", ""),),
    ),
    Mutant(
        name="a page is not counted",
        seed=1,
        scripts=(
            (
                "if limiters.available(limiter) > 0 then\n  limiters.grant_call(limiter)",
                "if true then",
            ),
        ),
    ),
)
