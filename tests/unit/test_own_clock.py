"""A worker with a wrong clock stands down, and occasionally tries whether it is right again."""

from worker.engine.own_clock import STAND_DOWN_SECONDS, OwnClock


class ManualClock:
    """A clock that is set explicitly."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_clock_is_trusted_until_a_call_is_refused_for_its_time() -> None:
    own_clock = OwnClock(ManualClock())
    assert own_clock.room(100, in_flight=0) == 100
    own_clock.accepted()
    assert own_clock.room(7, in_flight=93) == 7
    own_clock.refused()
    assert own_clock.room(100, in_flight=0) == 0


def test_only_the_first_of_several_refused_calls_in_transit_is_reported() -> None:
    own_clock = OwnClock(clock := ManualClock())
    assert own_clock.refused()
    clock.seconds = STAND_DOWN_SECONDS - 1
    assert not own_clock.refused()
    clock.seconds = STAND_DOWN_SECONDS
    assert own_clock.room(100, in_flight=0) == 1, "the ignored refusal did not extend the pause"
    assert own_clock.refused()
    assert own_clock.room(100, in_flight=0) == 0


def test_after_a_while_one_call_at_a_time_is_tried_until_one_is_answered() -> None:
    own_clock = OwnClock(clock := ManualClock())
    own_clock.refused()
    clock.seconds = STAND_DOWN_SECONDS
    assert own_clock.room(100, in_flight=0) == 1
    assert own_clock.room(99, in_flight=1) == 0
    assert own_clock.room(0, in_flight=0) == 0
    own_clock.accepted()
    assert own_clock.room(99, in_flight=1) == 99
