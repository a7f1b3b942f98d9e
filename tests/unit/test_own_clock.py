"""A worker whose clock is wrong stands down, and tries now and then whether it is right again."""

from worker.engine.own_clock import STAND_DOWN_SECONDS, OwnClock


class Hand:
    """A clock that goes where it is put."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_clock_is_trusted_until_a_call_is_refused_for_its_time() -> None:
    own_clock = OwnClock(Hand())
    assert own_clock.room(100, in_flight=0) == 100
    own_clock.accepted()
    assert own_clock.room(7, in_flight=93) == 7
    own_clock.refused()
    assert own_clock.room(100, in_flight=0) == 0


def test_of_the_calls_that_were_on_their_way_only_the_first_is_news() -> None:
    own_clock = OwnClock(hand := Hand())
    assert own_clock.refused()
    hand.seconds = STAND_DOWN_SECONDS - 1
    assert not own_clock.refused()
    hand.seconds = STAND_DOWN_SECONDS
    assert own_clock.room(100, in_flight=0) == 1, "what was no news lengthened nothing"
    assert own_clock.refused()
    assert own_clock.room(100, in_flight=0) == 0


def test_after_a_while_one_call_at_a_time_is_tried_until_one_is_answered() -> None:
    own_clock = OwnClock(hand := Hand())
    own_clock.refused()
    hand.seconds = STAND_DOWN_SECONDS
    assert own_clock.room(100, in_flight=0) == 1
    assert own_clock.room(99, in_flight=1) == 0
    assert own_clock.room(0, in_flight=0) == 0
    own_clock.accepted()
    assert own_clock.room(99, in_flight=1) == 99
