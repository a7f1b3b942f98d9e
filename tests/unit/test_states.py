"""The life of an import: each lettered transition, and what is derived from the table."""

from collections import Counter

import pytest

from worker.domain.errors import ERROR_OF_STATE
from worker.domain.states import EDGES, TERMINAL, Edge, State, sources_of

# The contract: `docs/architecture.md` shows these letters.
DRAWN = {
    "a": (None, "waiting"),
    "b": (None, "rejected"),
    "c": ("waiting", "starting"),
    "d": ("starting", "waiting"),
    "e": ("starting", "running"),
    "f": ("starting", "succeeded"),
    "g": ("starting", "failed"),
    "h": ("starting", "rejected"),
    "i": ("starting", "timed_out"),
    "j": ("running", "succeeded"),
    "k": ("running", "failed"),
    "l": ("running", "timed_out"),
    "m": ("waiting", "cancelled"),
    "n": ("running", "cancelled"),
}


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge.letter}: {edge.cause}")
def test_a_transition_leads_to_the_documented_state(edge: Edge) -> None:
    assert (edge.source, edge.target) == DRAWN[edge.letter]
    assert edge.cause
    if edge.source:
        assert edge.source in sources_of(edge.target)
        assert edge.source not in TERMINAL
    else:
        assert edge.target in (State.WAITING, State.REJECTED)


def test_every_documented_letter_is_one_transition() -> None:
    assert Counter(edge.letter for edge in EDGES) == Counter(list(DRAWN))


def test_no_two_transitions_join_the_same_states() -> None:
    assert len({(edge.source, edge.target) for edge in EDGES}) == len(EDGES)


def test_exactly_the_five_states_of_the_contract_are_terminal() -> None:
    assert {"succeeded", "failed", "rejected", "timed_out", "cancelled"} == TERMINAL


def test_every_state_is_reached_from_admission() -> None:
    reached: set[State | None] = {None}
    for _ in State:
        reached |= {edge.target for edge in EDGES if edge.source in reached}
    assert reached - {None} == set(State)


@pytest.mark.parametrize("state", sorted(set(State) - TERMINAL))
def test_an_import_under_way_can_always_end(state: State) -> None:
    reached = {state}
    for _ in State:
        reached |= {edge.target for edge in EDGES if edge.source in reached}
    assert {State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED} <= reached


@pytest.mark.parametrize(
    ("target", "sources"),
    [
        (State.WAITING, {"starting"}),
        (State.STARTING, {"waiting"}),
        (State.RUNNING, {"starting"}),
        (State.SUCCEEDED, {"starting", "running"}),
        (State.FAILED, {"starting", "running"}),
        (State.REJECTED, {"starting"}),
        (State.TIMED_OUT, {"starting", "running"}),
        (State.CANCELLED, {"waiting", "running"}),
    ],
)
def test_a_state_is_entered_from_its_sources_only(target: State, sources: set[str]) -> None:
    assert sources_of(target) == sources


def test_every_unsuccessful_end_has_its_error() -> None:
    assert set(ERROR_OF_STATE) == TERMINAL - {State.SUCCEEDED}
