"""Packages that run in production have licenses that a company may use."""

import pytest

from tests.deployment.licenses import is_allowed, licenses


def test_every_license_is_allowed() -> None:
    found = licenses()
    assert len(found) > 50
    assert {name: each for name, each in found.items() if not is_allowed(each)} == {}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("Apache-2.0 AND (MIT OR BSD-3-Clause)", True),
        ("Apache-2.0 AND AGPL-3.0-only", False),
        ("GNU General Public License v3 (GPLv3)", False),
        ("none", False),
    ],
)
def test_a_license_that_is_not_on_the_list_is_found(expression: str, expected: bool) -> None:  # noqa: FBT001 - parametrized
    assert is_allowed(expression) is expected
