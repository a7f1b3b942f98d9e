"""The lines of a history as people see them."""

import json

import pytest

from worker.cli.explain import sentence
from worker.domain.history import Line, What
from worker.domain.states import TERMINAL

ALL_DETAILS = {
    "attempt": 1,
    "holder": "i0",
    "error": "HTTP 504",
    "seconds": 2,
    "call": "start",
    "job_id": "j1",
    "retry_id": "r1",
    "outcome": "succeeded",
    "action": "adopt",
}


@pytest.mark.parametrize("what", [what for what in What if what.value not in TERMINAL])
def test_every_kind_of_entry_has_its_own_sentence(what: What) -> None:
    shown = sentence(Line.from_json(json.dumps({"at": 2000, "what": what, **ALL_DETAILS})))
    assert shown != f"{what}: HTTP 504"
    assert "$" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"at": 2, "what": "succeeded", "job_id": "j"}', "succeeded"),
        ('{"at": 2, "what": "failed", "error": "no $pool"}', "failed: no $pool"),
        ('{"at": 2, "what": "brand_new", "error": "e"}', "brand_new: e"),
        ('{"at": 2, "what": "brand_new"}', "brand_new"),
        (
            '{"at": 2, "what": "running", "job_id": "j", "adopted": true}',
            "job j is running; found in the list of jobs",
        ),
        (
            '{"at": 9000, "since": 2000, "times": 1500, "what": "throttled", "seconds": 0}',
            "throttled by AWS; back in line, the attempt does not count (1,500 times within 7 s)",
        ),
        (
            '{"at": 2, "what": "retry", "seconds": 2.5, "error": "HTTP 504"}',
            "AWS has no job for it; next start in 2.5 s: HTTP 504",
        ),
    ],
)
def test_a_line_describes_the_recorded_entry(text: str, shown: str) -> None:
    assert sentence(Line.from_json(text)) == shown
