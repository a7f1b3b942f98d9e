"""A check of what may remain in the store."""

from typing import Any

from worker.store.keys import CATALOGUE, Lifetime


def assert_nothing_left_behind(redis: Any) -> None:
    """Fail on a key of the worker's that is not cataloged, or that remains without being needed."""
    for name in redis.keys("imports:*"):
        found = [
            key
            for key in CATALOGUE
            if name == key.name or (key.name.endswith(":") and name.startswith(key.name))
        ]
        assert found, f"{name} is not in the catalogue"
        assert redis.type(name) == found[0].type, name
        if found[0].lifetime is Lifetime.RETENTION:
            assert redis.pttl(name) > 0, f"{name} would stay for ever"
        assert found[0].lifetime is not Lifetime.EMPTIED, (
            f"{name} holds something that is not needed"
        )
