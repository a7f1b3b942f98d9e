"""The state machine, driven by Hypothesis in any order on a real server, against a reference.

`tests/world.py` is what is driven, `tests/model.py` what must come of it. A failure prints the
steps, and a line that replays them. `MODEL_EXAMPLES=5000` draws that many others, from
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
    Clock,
    Mood,
    Nature,
    is_followed,
    untruths,
)
from tests.support import assert_nothing_left_behind, members
from tests.world import LEASE_SECONDS, Errand, Shelves, World
from worker.domain.imports import Import
from worker.domain.states import TERMINAL, State

EXAMPLES: Final = int(os.environ.get("MODEL_EXAMPLES", "0"))
BATCHES: Final = ("b0", "b1", "canaries")
PAUSES: Final = (3.0, 5.0, LEASE_SECONDS + 1, LEASE_SECONDS + 1, POLICY.deadline_seconds + 5)
"""Seconds that pass: within a lease, over half of it, over all of it, over the deadline."""

SOON: Final = (0.0, 0.0, 2.5, POLICY.settle_seconds + 1)
"""Seconds after which a poll, a doubt or a retry is due."""

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
OFTEN = (Mood.TRUTH, Mood.LOST, Mood.LOST_AND_OVER, Mood.FAILED_BEFORE, Mood.CONFLICT)
moods = st.sampled_from((*Mood, *OFTEN * 3))
fates = st.sampled_from((*["answer"] * 4, "twice", "crash", "stay", "stall"))
"""What becomes of a call: its answer is recorded, twice, never, or later; or it is made later."""

lags = st.sampled_from(LAGS)
words = st.sampled_from(("ImportBackendAuth", "IMPORT"))
natures = st.just(Nature()) | st.builds(
    Nature,
    clock=st.sampled_from(Clock),
    word=words,
    list_word=words,
    other_word=st.sampled_from(("ImportBackendAuth", "UpdateBackendAuth")),
    others_block=st.booleans(),
    hides_finished=st.sampled_from((False, False, True)),
    forgets=st.sampled_from((False, False, True)),
)


class Machine(RuleBasedStateMachine):
    """Each rule is something that the world may do; each invariant holds after all of them."""

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

    @initialize(nature=natures)
    def admit_two_of_a_target(self, nature: Nature) -> None:
        self._do(self.world.open(nature))
        for import_id in ("first", "second"):
            self._do(self.world.admit_by_task(import_id, members("d0")))

    @rule(request=requests, by_stream=st.booleans())
    def admit(self, request: dict[str, Any], *, by_stream: bool) -> None:
        self._do(self._by(by_stream)(self._new_id(), request))

    @rule(number=which, app=st.integers(0, 1), by_stream=st.booleans())
    def admit_again(self, number: int, app: int, *, by_stream: bool) -> None:
        """Send an id once more: the same request, or another."""
        if not (ids := self.world.register.ids()):
            return
        import_id = ids[number % len(ids)]
        request = dict(self.world.register.body_of(import_id))
        if "webClientId" in request:  # what is invalid is known by its error
            request["appId"] = f"d{app}"
        self._do(self._by(by_stream)(import_id, request))

    @rule(
        batch=st.sampled_from(BATCHES),
        offset=st.integers(0, 3),
        sent=st.lists(bare, min_size=1, max_size=3),
    )
    def admit_batch(self, batch: str, offset: int, sent: list[dict[str, Any]]) -> None:
        """Send a message of a batch; where offsets overlap, it is the same or taken."""
        self._do(self.world.admit_batch(batch, offset, sent))

    @rule(app=st.integers(0, 1), by_stream=st.booleans())
    def admit_what_is_invalid(self, app: int, *, by_stream: bool) -> None:
        request = members(f"d{app}")
        del request["webClientId"]
        self._do(self._by(by_stream)(self._new_id(), request))

    # What workers and the remote side do.

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        self._do(self.world.claim(limit))

    @rule(number=which, mood=moods, lag=lags)
    def call(self, number: int, mood: Mood, lag: float) -> None:
        """Make a call whose answer stays on the way."""
        if errand := self._errand(number, is_begun=False):
            self._do(self.world.begin(errand, mood, lag))

    @rule(number=which, twice=st.booleans())
    def answer(self, number: int, *, twice: bool) -> None:
        if errand := self._errand(number, is_begun=True):
            self._do(self.world.deliver(errand, twice=twice))

    @rule(seconds=st.sampled_from(SOON), mood=moods, lag=lags, fate=fates)
    def work(self, seconds: float, mood: Mood, lag: float, fate: str) -> None:
        """Make the next call, after as much time as a poll, a doubt or a retry may take."""
        self._do(self._work(seconds, mood, lag, fate))

    @rule(seconds=st.sampled_from(SOON), mood=moods, lag=lags, fate=fates)
    def work_on(self, seconds: float, mood: Mood, lag: float, fate: str) -> None:
        """Do it as often as everything else: calls are what all the rest is about."""
        self._do(self._work(seconds, mood, lag, fate))

    @rule(number=which, is_begun=st.booleans())
    def crash(self, number: int, *, is_begun: bool) -> None:
        if errand := self._errand(number, is_begun=is_begun):
            self._do(self.world.crash(errand))

    @rule(number=which, twice=st.booleans())
    def answer_late(self, number: int, *, twice: bool) -> None:
        """Let a lease run out, and others take over; then the worker wakes, or is answered."""
        self._do(self._answer_late(number, twice=twice))

    @rule(seconds=st.sampled_from(PAUSES))
    def pass_time(self, seconds: float) -> None:
        self._do(self.world.pass_time(seconds))

    @rule(number=which, lag=lags, what=st.sampled_from(("COMPLETED", "COMPLETED", "FAILED", "new")))
    def change_job(self, number: int, lag: float, what: str) -> None:
        """Let a job end, or somebody else start one."""
        remote = self.world.remote
        if what == "new":
            remote.start_foreign(f"default/us-east-1/d{number % 2}/staging", lag)
        elif pending := [job for job in remote.jobs if job.is_pending]:
            remote.change(pending[number % len(pending)], what)

    # What people do.

    @rule(number=which)
    def cancel(self, number: int) -> None:
        if ids := list(self.world.states):
            self._do(self.world.cancel(ids[number % len(ids)]))

    @rule(batch=st.sampled_from(BATCHES), what=st.sampled_from(("stop", "resume", "tasks")))
    def stop_or_resume(self, batch: str, what: str) -> None:
        if what == "stop":
            self._do(self.world.batches.stop(batch, "a freeze"))
        elif what == "resume":
            self._do(self.world.batches.resume(batch))
        else:
            self._do(self.world.settle_overdue())

    # What holds whatever happens.

    @invariant()
    def states_are_as_expected(self) -> None:
        self._do(self._check())

    def teardown(self) -> None:
        """With a remote side that behaves, everything comes to its end, and nothing stays."""
        try:
            self._do(self._drive_to_the_end())
        finally:
            self._do(self.world.close())
            self._runner.close()

    async def _check(self) -> None:
        shelves = await self.world.look()
        found = {import_id: item.state for import_id, item in shelves.items.items()}
        assert found == self.world.states
        for import_id, item in shelves.items.items():
            _check_place(shelves, import_id, item)
            if item.late_outcome in OUTCOMES.values():
                job = self.world.remote.by_id(item.job_id)
                assert OUTCOMES[job.status] == item.late_outcome, f"{import_id} is noted falsely"
        targets = await self.world.hashes("imports:target:")
        _check_targets(shelves, targets, self.world.remote.doubted)
        _check_batches(shelves, await self.world.hashes("imports:batch:"))
        await self._check_events(shelves)

    async def _check_events(self, shelves: Shelves) -> None:
        for event in await self.world.new_events():
            assert event["id"] not in self._event_ids, f"{event['id']} is told twice"
            self._event_ids.add(event["id"])
            import_id = event["data"].get("importId")
            self._accepted[import_id] += event["type"] == "import.accepted"
            if event["data"].get("outcome"):
                self._ended[import_id] += 1
                untrue = list(untruths(self.world.remote, event["data"]))
                assert not untrue, untrue
        for import_id, item in shelves.items.items():
            assert self._ended[import_id] == item.is_terminal, f"{import_id} has ended otherwise"
            was_accepted = bool(item.request_json) and not item.error.startswith("idempotencyKey")
            assert self._accepted[import_id] == was_accepted, f"{import_id} was accepted otherwise"

    async def _drive_to_the_end(self) -> None:
        for errand in list(self.world.errands):
            await self.world.crash(errand)
        for _ in range(STEPS_TO_THE_END):
            items = (await self.world.look()).items.values()
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
        await self.world.pass_time(6)
        await self.world.claim(50)
        for errand in list(self.world.errands):
            await self.world.begin(errand, Mood.TRUTH, 0)
        for errand in list(self.world.errands):
            await self.world.deliver(errand, twice=False)
        await self.world.resolve_all()
        for job in self.world.remote.jobs:
            if job.is_pending:
                self.world.remote.change(job, "COMPLETED")

    async def _check_nothing_is_owed(self) -> None:
        await self.world.pass_time(10 * LEASE_SECONDS)
        await self.world.settle_overdue()
        assert await self.world.settle_overdue() == set(), "a task is owed its end for ever"
        assert await self.world.store.sweep() == []
        await self.world.claim(1)
        await self.world.store.wait_for_hint(0.01)
        with Redis.from_url(self._url, decode_responses=True) as client:
            assert_nothing_left_behind(client)

    async def _answer_late(self, number: int, *, twice: bool) -> None:
        if not self.world.errands:
            return
        errand = self.world.errands[number % len(self.world.errands)]
        await self.world.pass_time(LEASE_SECONDS + 1)
        await self.world.calm()
        for seconds in (POLICY.settle_seconds + 1, 0):  # a doubt settles, and is resolved
            await self.world.claim(4)
            await self.world.pass_time(seconds)
        for other in [other for other in self.world.errands if other is not errand][-2:]:
            if not other.is_begun:
                await self.world.begin(other, Mood.TRUTH, 0)
        if not errand.is_begun:
            await self.world.begin(errand, Mood.TRUTH, 0)
        if errand in self.world.errands:
            await self.world.deliver(errand, twice=twice)

    async def _work(self, seconds: float, mood: Mood, lag: float, fate: str) -> None:
        if seconds:
            await self.world.pass_time(seconds)
            await self.world.calm()
        await self.world.claim(1)
        errand = self._errand(-1, is_begun=False)
        if errand and fate != "stall":
            await self.world.begin(errand, mood, lag)
        if errand in self.world.errands and fate in {"answer", "twice"}:
            await self.world.deliver(errand, twice=fate == "twice")
        elif errand in self.world.errands and fate == "crash":
            await self.world.crash(errand)

    def _errand(self, number: int, *, is_begun: bool) -> Errand | None:
        errands = [errand for errand in self.world.errands if errand.is_begun is is_begun]
        return errands[number % len(errands)] if errands else None

    def _by(self, by_stream: bool) -> Any:  # noqa: FBT001 - drawn
        return self.world.admit_by_stream if by_stream else self.world.admit_by_task

    def _new_id(self) -> str:
        return f"i{len(self.world.register.ids())}"


def _check_place(shelves: Shelves, import_id: str, item: Import) -> None:
    """Check that an import is where conductors find it, and in one such place only."""
    places = shelves.kinds(import_id)
    allowed = FOLLOWED if is_followed(item) else PLACES[item.state]
    assert set(places) <= allowed, f"{import_id} is {item.state} and stands in {places}"
    assert len(places) == min(1, len(allowed)), f"{import_id} is {item.state} and in {places}"
    assert bool(shelves.leases[import_id]) == ("leases" in places), (
        f"{import_id} has lost its lease"
    )
    if item.state is State.STARTING and "polls" in places:
        assert item.doubt, f"{import_id} has no call on its way, and nobody will ask"
    if places and places[0] in {"waiting", "delayed", "leases", "polls", "late"}:
        assert item.lane in shelves.lanes, f"nobody looks at {item.lane}, where {import_id} is"


def _check_targets(shelves: Shelves, targets: dict[str, dict[str, str]], doubted: set[str]) -> None:
    """Check that a target is held by the one import that starts, runs or may have started there."""
    active: defaultdict[str, list[str]] = defaultdict(list)
    for import_id, item in shelves.items.items():
        is_doubted = item.state is State.WAITING and import_id in doubted
        if is_doubted or item.state in {State.STARTING, State.RUNNING}:
            active[f"{item.lane}/{item.target}"].append(import_id)
    for target, ids in active.items():
        assert [targets.get(target, {}).get("holder")] == ids, (
            f"{target} is held otherwise than by {ids}"
        )
    for target, fields in targets.items():
        holder = shelves.items.get(fields.get("holder", ""))
        if holder and target not in active:  # a worker may have died before it made the call
            assert holder.state is State.WAITING, f"{target} is held for nothing"
            assert holder.doubts, f"{target} is held for nothing"


def _check_batches(shelves: Shelves, batches: dict[str, dict[str, str]]) -> None:
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in shelves.items.values():
        if item.batch_id:
            counted[item.batch_id].update({item.state.value: 1, "accepted": 1})
    for batch, fields in batches.items():
        told = {name: int(fields.get(name, 0)) for name in ("accepted", *State)}
        assert told == {name: counted[batch][name] for name in told}, f"batch {batch} is miscounted"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of steps are not logged; a failure prints its own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def test_any_order_of_answers_crashes_and_timeouts_leaves_what_the_model_says(
    store_url: str,
) -> None:
    run_state_machine_as_test(
        partial(Machine, store_url),  # type: ignore[arg-type]  # any callable that makes one will do
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
