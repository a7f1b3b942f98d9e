"""The numbers of the report: percentiles, bins, steps and axes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.report.figures import (
    BOUNDS,
    MOST_BINS,
    DurationBin,
    axis,
    distribution,
    duration,
    duration_bins,
    mean_rate,
    percentile,
    rounded,
    time_bins,
    time_step,
)

DURATIONS = st.lists(st.floats(min_value=0, max_value=1e7), min_size=1)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (10, 1), (11, 2), (50, 5), (90, 9), (99, 10), (100, 10)]
)
def test_a_percentile_is_the_smallest_value_that_enough_others_do_not_exceed(
    percent: float, expected: float
) -> None:
    assert percentile(range(1, 11), percent) == expected


def test_the_percentiles_of_a_single_duration_are_that_duration() -> None:
    only = distribution([7.5])
    assert only is not None
    assert (only.count, only.median, only.p90, only.p99, only.longest) == (1, 7.5, 7.5, 7.5, 7.5)
    assert distribution([]) is None


@given(DURATIONS)
def test_percentiles_ascend_and_are_among_the_values(values: list[float]) -> None:
    found = distribution(values)
    assert found is not None
    percentiles = [found.median, found.p90, found.p99, found.longest]
    assert percentiles == sorted(percentiles)
    assert set(percentiles) <= set(values)


def test_a_duration_on_a_bound_is_in_the_bin_below_it() -> None:
    assert duration_bins([1.0, 1.001, 5.0]) == [
        DurationBin(1, 1),
        DurationBin(2, 1),
        DurationBin(5, 1),
    ]
    assert duration_bins([0, BOUNDS[-1] + 1])[-1] == DurationBin(math.inf, 1)
    assert duration_bins([]) == []


@given(DURATIONS)
def test_every_duration_is_in_one_bin(values: list[float]) -> None:
    bins = duration_bins(values)
    assert sum(each.count for each in bins) == len(values)
    assert bins[0].count
    assert bins[-1].count


@pytest.mark.parametrize(
    ("seconds", "step"), [(1, 1), (60, 1), (61, 2), (3600, 60), (86400, 1800), (10**9, 16934400)]
)
def test_a_step_divides_a_span_into_few_round_parts(seconds: float, step: int) -> None:
    assert time_step(seconds, MOST_BINS) == step


@given(st.floats(min_value=0.001, max_value=1e10))
def test_no_span_has_too_many_bins(seconds: float) -> None:
    assert math.ceil(seconds / time_step(seconds, MOST_BINS)) <= MOST_BINS


def test_times_are_counted_by_step_and_none_is_lost() -> None:
    assert time_bins([0, 999, 1000, 2500, 9999, -5], 0, 1, 3) == [3, 1, 2]


def test_the_mean_rate_needs_two_times() -> None:
    assert mean_rate([0, 500, 1000]) == 2
    assert mean_rate([5]) is None
    assert mean_rate([5, 5]) is None


@pytest.mark.parametrize(
    ("maximum", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.04, [0, 0.5, 1, 1.5, 2, 2.5]),
        (10_000, [0, 2000, 4000, 6000, 8000, 10_000]),
    ],
)
def test_an_axis_has_round_ticks_up_to_the_maximum(maximum: float, ticks: list[float]) -> None:
    assert axis(maximum) == ticks


def test_an_axis_of_counts_has_whole_ticks() -> None:
    assert axis(2, least_step=1) == [0, 1, 2]


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_an_axis_reaches_the_maximum_with_few_ticks(maximum: float) -> None:
    ticks = axis(maximum)
    assert ticks[-1] >= maximum * (1 - 1e-6)
    assert 2 <= len(ticks) <= 7


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.4567, "457 ms"),
        (0.9999, "1 s"),
        (1, "1 s"),
        (68.14, "68.1 s"),
        (119.96, "2 min"),
        (120, "2 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
        (8_640_000, "100 d"),
        (864_000_000, "10,000 d"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_number_has_three_digits_and_no_exponent() -> None:
    numbers = [0.04567, 9.696, 10, 1000, 123456]
    assert [rounded(each) for each in numbers] == ["0.0457", "9.7", "10", "1,000", "123,000"]
