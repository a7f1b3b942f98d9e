"""The state machine, driven by Hypothesis in any order on a real server, against a reference model.

`tests/world.py` is the environment, `tests/model.py` the reference. A failure prints the steps, and
a line that repeats them. `MODEL_EXAMPLES=5000` runs that many other examples, from
`--hypothesis-seed`.
"""

import asyncio
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any, Final

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from tests.model import (
    FOLLOWED,
    LAGS,
    OUTCOMES,
    PLACES,
    POLICY,
    ApiFacts,
    Behavior,
    Clock,
    false_claims,
    is_followed,
)
from tests.support import assert_nothing_left_behind, members
from tests.world import LEASE_SECONDS, PendingCall, StoreSnapshot, World
from worker.domain.imports import Import
from worker.domain.states import TERMINAL, State

EXAMPLES: Final = int(os.environ.get("MODEL_EXAMPLES", "0"))
BATCHES: Final = ("b0", "b1", "canaries")
PAUSES: Final = (3.0, 5.0, LEASE_SECONDS + 1, LEASE_SECONDS + 1, POLICY.deadline_seconds + 5)
"""Seconds that pass: within a lease, more than half of it, all of it, or past the deadline."""

SOON: Final = (0.0, 0.0, 2.5, POLICY.settle_seconds + 1)
"""Seconds after which a poll, a reconciliation or a retry is due."""

STEPS_TO_THE_END: Final = 400

requests = st.builds(
    lambda app, priority, batch, key, deadline: {
        **members(f"d{app}", priority=priority),
        **({"batchId": batch} if batch else {}),
        **({"idempotencyKey": key} if key else {}),
        **({"deadlineSeconds": deadline} if deadline else {}),
    },
    app=st.integers(0, 1),
    priority=st.sampled_from(("normal", "high", "low")),
    batch=st.sampled_from(("", "", *BATCHES)),
    key=st.sampled_from(("", "", "", "k0", "k1")),
    deadline=st.sampled_from((None, None, 30)),
)
bare = st.builds(lambda app: members(f"d{app}"), app=st.integers(0, 2))
which = st.integers(0, 7)
OFTEN = (
    Behavior.TRUTH,
    Behavior.LOST,
    Behavior.LOST_AND_OVER,
    Behavior.FAILED_BEFORE,
    Behavior.CONFLICT,
)
behaviors = st.sampled_from((*Behavior, *OFTEN * 3))
fates = st.sampled_from((*["answer"] * 4, "twice", "crash", "stay", "stall"))
"""What happens to a call: it is answered once, twice or later, its worker dies, or it is made
later."""

lags = st.sampled_from(LAGS)
words = st.sampled_from(("ImportBackendAuth", "IMPORT"))
fact_sets = st.just(ApiFacts()) | st.builds(
    ApiFacts,
    clock=st.sampled_from(Clock),
    word=words,
    list_word=words | st.just("CreateAuth"),
    other_word=st.sampled_from(("ImportBackendAuth", "UpdateBackendAuth")),
    others_block=st.booleans(),
    hides_finished=st.sampled_from((False, False, True)),
    forgets=st.sampled_from((False, False, True)),
)


schedules = st.fixed_dictionaries(
    {batch: st.sampled_from(("", "paced", "closed", "later")) for batch in BATCHES}
)


class Machine(RuleBasedStateMachine):
    """Each rule is something that may happen; each invariant is checked after every rule."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._runner = asyncio.Runner()
        self.world = World(url)
        self._ended: Counter[str] = Counter()
        self._accepted: Counter[str] = Counter()
        self._event_ids: set[str] = set()

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    # What producers do.

    @initialize(facts=fact_sets, schedules=schedules)
    def admit_two_of_a_target(self, facts: ApiFacts, schedules: dict[str, str]) -> None:
        self._do(self.world.open(facts))
        for batch, what in schedules.items():
            self._do(self.world.announce(batch, what))
        for import_id in ("first", "second"):
            self._do(self.world.admit_by_task(import_id, members("d0")))

    @rule(request=requests, by_stream=st.booleans())
    def admit(self, request: dict[str, Any], *, by_stream: bool) -> None:
        self._do(self._by(by_stream)(self._new_id(), request))

    @rule(number=which, app=st.integers(0, 1), by_stream=st.booleans())
    def admit_again(self, number: int, app: int, *, by_stream: bool) -> None:
        """Send an id again, with the same request or another."""
        if not (ids := self.world.register.ids()):
            return
        import_id = ids[number % len(ids)]
        request = dict(self.world.register.body_of(import_id))
        if "webClientId" in request:  # an invalid request is identified by its error
            request["appId"] = f"d{app}"
        self._do(self._by(by_stream)(import_id, request))

    @rule(
        batch=st.sampled_from(BATCHES),
        offset=st.integers(0, 3),
        sent=st.lists(bare, min_size=1, max_size=3),
    )
    def admit_batch(self, batch: str, offset: int, sent: list[dict[str, Any]]) -> None:
        """Send a message of a batch; if offsets overlap, the ids are known or taken."""
        self._do(self.world.admit_batch(batch, offset, sent))

    @rule(app=st.integers(0, 1), by_stream=st.booleans())
    def admit_what_is_invalid(self, app: int, *, by_stream: bool) -> None:
        request = members(f"d{app}")
        del request["webClientId"]
        self._do(self._by(by_stream)(self._new_id(), request))

    # What workers and the remote API do.

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        self._do(self.world.claim(limit))

    @rule(number=which, behavior=behaviors, lag=lags)
    def call(self, number: int, behavior: Behavior, lag: float) -> None:
        """Make a call whose answer stays in transit."""
        if call := self._pending_call(number, is_begun=False):
            self._do(self.world.begin(call, behavior, lag))

    @rule(number=which, twice=st.booleans())
    def answer(self, number: int, *, twice: bool) -> None:
        if call := self._pending_call(number, is_begun=True):
            self._do(self.world.deliver(call, twice=twice))

    @rule(seconds=st.sampled_from(SOON), behavior=behaviors, lag=lags, fate=fates)
    def work(self, seconds: float, behavior: Behavior, lag: float, fate: str) -> None:
        """Make the next call, after the time that a poll, a reconciliation or a retry may take."""
        self._do(self._work(seconds, behavior, lag, fate))

    @rule(seconds=st.sampled_from(SOON), behavior=behaviors, lag=lags, fate=fates)
    def work_on(self, seconds: float, behavior: Behavior, lag: float, fate: str) -> None:
        """Do the same as `work`, so that calls are drawn as often as everything else."""
        self._do(self._work(seconds, behavior, lag, fate))

    @rule(number=which, is_begun=st.booleans())
    def crash(self, number: int, *, is_begun: bool) -> None:
        if call := self._pending_call(number, is_begun=is_begun):
            self._do(self.world.crash(call))

    @rule(number=which, twice=st.booleans())
    def answer_late(self, number: int, *, twice: bool) -> None:
        """Let a lease expire and others take over; then deliver the late answer."""
        self._do(self._answer_late(number, twice=twice))

    @rule(seconds=st.sampled_from(PAUSES))
    def pass_time(self, seconds: float) -> None:
        self._do(self.world.pass_time(seconds))

    @rule(number=which, lag=lags, what=st.sampled_from(("COMPLETED", "COMPLETED", "FAILED", "new")))
    def change_job(self, number: int, lag: float, what: str) -> None:
        """Let a job end, or let another party start one."""
        remote = self.world.remote
        if what == "new":
            remote.start_other_job(f"default/us-east-1/d{number % 2}/staging", lag)
        elif pending := [job for job in remote.jobs if job.is_pending]:
            remote.change(pending[number % len(pending)], what)

    # What operators and users do.

    @rule(number=which)
    def cancel(self, number: int) -> None:
        if ids := list(self.world.states):
            self._do(self.world.cancel(ids[number % len(ids)]))

    @rule(batch=st.sampled_from(BATCHES), what=st.sampled_from(("stop", "resume", "tasks")))
    def stop_or_resume(self, batch: str, what: str) -> None:
        if what == "stop":
            self._do(self.world.batches.pause(batch, "a freeze"))
        elif what == "resume":
            self._do(self.world.batches.resume(batch))
        else:
            self._do(self.world.finish_overdue_tasks())

    @rule(
        batch=st.sampled_from(BATCHES),
        what=st.sampled_from(("later", "closed", "paced", "clear")),
        sent=st.lists(bare, min_size=1, max_size=2),
    )
    def schedule(self, batch: str, what: str, sent: list[dict[str, Any]]) -> None:
        """Change when a batch may start imports, between two of its messages, and go on."""
        self._do(self._schedule(batch, what, sent))

    # What must always hold.

    @invariant()
    def states_are_as_expected(self) -> None:
        self._do(self._check())

    def teardown(self) -> None:
        """With a well-behaved remote API, every import ends, and nothing is left behind."""
        try:
            self._do(self._drive_to_the_end())
        finally:
            self._do(self.world.close())
            self._runner.close()

    async def _check(self) -> None:
        snapshot = await self.world.read_store()
        found = {import_id: item.state for import_id, item in snapshot.items.items()}
        assert found == self.world.states
        for import_id, item in snapshot.items.items():
            _check_place(snapshot, import_id, item)
            if item.late_outcome in OUTCOMES.values():
                job = self.world.remote.by_id(item.job_id)
                assert OUTCOMES[job.status] == item.late_outcome, (
                    f"{import_id} has a wrong late outcome"
                )
        targets = await self.world.hashes("imports:target:")
        _check_targets(snapshot, targets, self.world.remote.unlisted_starts)
        _check_batches(snapshot, await self.world.hashes("imports:batch:"))
        await self._check_events(snapshot)

    async def _check_events(self, snapshot: StoreSnapshot) -> None:
        for event in await self.world.new_events():
            assert event["id"] not in self._event_ids, f"{event['id']} is reported twice"
            self._event_ids.add(event["id"])
            import_id = event["data"].get("importId")
            self._accepted[import_id] += event["type"] == "import.accepted"
            if event["data"].get("outcome"):
                self._ended[import_id] += 1
                untrue = list(false_claims(self.world.remote, event["data"]))
                assert not untrue, untrue
        for import_id, item in snapshot.items.items():
            assert self._ended[import_id] == item.is_terminal, (
                f"{import_id} has a wrong number of terminal events"
            )
            was_accepted = bool(item.request_json) and not item.error.startswith("idempotencyKey")
            assert self._accepted[import_id] == was_accepted, (
                f"{import_id} has a wrong number of acceptances"
            )

    async def _drive_to_the_end(self) -> None:
        for call in list(self.world.calls):
            await self.world.crash(call)
        for _ in range(STEPS_TO_THE_END):
            items = (await self.world.read_store()).items.values()
            if all(item.is_terminal and not is_followed(item) for item in items):
                break
            await self._drive()
        else:
            left = {i: s for i, s in self.world.states.items() if s not in TERMINAL}
            raise AssertionError(f"these never end: {left}")
        await self._check()
        await self._check_nothing_is_owed()

    async def _drive(self) -> None:
        for batch in BATCHES:
            await self.world.batches.resume(batch)
            await self.world.schedule(batch, "clear")
        await self.world.pass_time(6)
        await self.world.claim(50)
        for call in list(self.world.calls):
            await self.world.begin(call, Behavior.TRUTH, 0)
        for call in list(self.world.calls):
            await self.world.deliver(call, twice=False)
        await self.world.resolve_all()
        for job in self.world.remote.jobs:
            if job.is_pending:
                self.world.remote.change(job, "COMPLETED")

    async def _check_nothing_is_owed(self) -> None:
        await self.world.pass_time(10 * LEASE_SECONDS)
        await self.world.finish_overdue_tasks()
        assert await self.world.finish_overdue_tasks() == set(), "a task never finishes"
        assert await self.world.store.sweep() == []
        await self.world.claim(1)
        await self.world.store.wait_for_hint(0.01)
        with Redis.from_url(self._url, decode_responses=True) as client:
            assert_nothing_left_behind(client)

    async def _schedule(self, batch: str, what: str, sent: list[dict[str, Any]]) -> None:
        first = len(self.world.register.ids())
        await self.world.admit_batch(batch, first, sent)
        await self.world.schedule(batch, what)
        await self.world.admit_batch(batch, first + len(sent), sent)
        for _ in range(4):  # a lane whose facts are unknown lists a target's jobs before a start
            await self._work(2.5, Behavior.TRUTH, 0, "answer")

    async def _answer_late(self, number: int, *, twice: bool) -> None:
        if not self.world.calls:
            return
        call = self.world.calls[number % len(self.world.calls)]
        await self.world.pass_time(LEASE_SECONDS + 1)
        await self.world.open_lanes()
        for seconds in (
            POLICY.settle_seconds + 1,
            0,
        ):  # an unknown outcome settles, and is reconciled
            await self.world.claim(4)
            await self.world.pass_time(seconds)
        for other in [other for other in self.world.calls if other is not call][-2:]:
            if not other.is_begun:
                await self.world.begin(other, Behavior.TRUTH, 0)
        if not call.is_begun:
            await self.world.begin(call, Behavior.TRUTH, 0)
        if call in self.world.calls:
            await self.world.deliver(call, twice=twice)

    async def _work(self, seconds: float, behavior: Behavior, lag: float, fate: str) -> None:
        if seconds:
            await self.world.pass_time(seconds)
            await self.world.open_lanes()
        await self.world.claim(1)
        call = self._pending_call(-1, is_begun=False)
        if call and fate != "stall":
            await self.world.begin(call, behavior, lag)
        if call in self.world.calls and fate in {"answer", "twice"}:
            await self.world.deliver(call, twice=fate == "twice")
        elif call in self.world.calls and fate == "crash":
            await self.world.crash(call)

    def _pending_call(self, number: int, *, is_begun: bool) -> PendingCall | None:
        calls = [call for call in self.world.calls if call.is_begun is is_begun]
        return calls[number % len(calls)] if calls else None

    def _by(self, by_stream: bool) -> Any:  # noqa: FBT001 - drawn
        return self.world.admit_by_stream if by_stream else self.world.admit_by_task

    def _new_id(self) -> str:
        return f"i{len(self.world.register.ids())}"


def _check_place(snapshot: StoreSnapshot, import_id: str, item: Import) -> None:
    """Check that an import is in exactly one queue, and where conductors find it."""
    places = snapshot.kinds(import_id)
    allowed = FOLLOWED if is_followed(item) else PLACES[item.state]
    assert set(places) <= allowed, f"{import_id} is {item.state} and is in {places}"
    assert len(places) == min(1, len(allowed)), f"{import_id} is {item.state} and in {places}"
    assert bool(snapshot.leases[import_id]) == ("leases" in places), (
        f"{import_id} has lost its lease"
    )
    if item.state is State.STARTING and "polls" in places:
        assert item.doubt, f"{import_id} has no call in progress, and will not be reconciled"
    if places and places[0] in {"waiting", "delayed", "leases", "polls", "late"}:
        assert item.lane in snapshot.lanes, (
            f"no conductor looks at {item.lane}, where {import_id} is"
        )


def _check_targets(
    snapshot: StoreSnapshot, targets: dict[str, dict[str, str]], unlisted_starts: set[str]
) -> None:
    """Check that each target is held by the import that starts, runs or may have started."""
    active: defaultdict[str, list[str]] = defaultdict(list)
    for import_id, item in snapshot.items.items():
        may_have_started = item.state is State.WAITING and import_id in unlisted_starts
        if may_have_started or item.state in {State.STARTING, State.RUNNING}:
            active[f"{item.lane}/{item.target}"].append(import_id)
    for target, ids in active.items():
        assert [targets.get(target, {}).get("holder")] == ids, f"{target} is not held by {ids}"
    for target, fields in targets.items():
        holder = snapshot.items.get(fields.get("holder", ""))
        if holder and target not in active:  # a worker may have died before it made the call
            assert holder.state is State.WAITING, f"{target} is held without need"
            assert holder.doubts, f"{target} is held without need"


def _check_batches(snapshot: StoreSnapshot, batches: dict[str, dict[str, str]]) -> None:
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in snapshot.items.values():
        if item.batch_id:
            counted[item.batch_id].update({item.state.value: 1, "accepted": 1})
    for batch, fields in batches.items():
        stored = {name: int(fields.get(name, 0)) for name in ("accepted", *State)}
        assert stored == {name: counted[batch][name] for name in stored}, (
            f"batch {batch} is miscounted"
        )


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Do not log thousands of steps; a failure prints its own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def test_any_order_of_answers_crashes_and_timeouts_matches_the_model(
    store_url: str,
) -> None:
    run_state_machine_as_test(
        partial(Machine, store_url),  # type: ignore[arg-type]  # any callable that returns one works
        settings=settings(
            max_examples=EXAMPLES or 40,
            stateful_step_count=60,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
