"""Times in the formats of AWS services."""

import pytest

from worker.operations.times import read_time

MOMENT = 1795688140.0  # 2026-11-26T10:15:40Z
HALF_A_DAY = 14 * 3600.0


@pytest.mark.parametrize(
    ("value", "within", "name"),
    [
        (1795688140, 1, "epoch seconds"),
        ("1795688140", 1, "epoch seconds"),
        (1795688140.0, 1, "epoch seconds"),
        (1795688140000, 0.001, "epoch milliseconds"),
        ("1795688140000", 0.001, "epoch milliseconds"),
        (1795688140000000, 0.001, "epoch microseconds"),
        (1795688140000000000, 0.001, "epoch nanoseconds"),
        ("2026-11-26T10:15:40Z", 1, "ISO 8601"),
        ("2026-11-26T10:15:40.000Z", 0.001, "ISO 8601"),
        ("2026-11-26T11:15:40+01:00", 1, "ISO 8601"),
        ("20261126T101540Z", 1, "ISO 8601"),
        (" 2026-11-26 10:15:40 ", 1 + HALF_A_DAY, "ISO 8601, no zone"),
        ("Thu, 26 Nov 2026 10:15:40 GMT", 1, "HTTP date"),
    ],
)
def test_a_time_is_read_in_any_format_that_aws_uses(
    value: object, within: float, name: str
) -> None:
    reading = read_time(value)
    assert reading is not None
    assert (reading.seconds, reading.within, reading.format) == (MOMENT, within, name)


@pytest.mark.parametrize(
    ("text", "within"),
    [
        ("2026-11-26T10:15Z", 60),
        ("2026-11-26T10Z", 3600),
        ("2026-11-26", 86400 + HALF_A_DAY),
        ("2026-11-26T10:15:40.25Z", 0.001),
    ],
)
def test_a_time_is_as_exact_as_it_is_written(text: str, within: float) -> None:
    reading = read_time(text)
    assert reading is not None
    assert reading.within == within


@pytest.mark.parametrize(
    "value", [None, "", "soon", True, [1], {}, "1e400", float("nan"), "2026-13-45", "10:15"]
)
def test_text_that_is_not_a_time_is_none(value: object) -> None:
    assert read_time(value) is None
