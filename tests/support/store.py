"""A check of what may remain in the store."""

from typing import Any

from worker.store.keys import CATALOGUE, Lifetime


def assert_nothing_left_behind(redis: Any) -> None:
    """Fail on a key of the worker's that is not cataloged, or that remains without being needed."""
    names = redis.keys("imports:*")
    with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.type(name).pttl(name)
        replies = iter(pipeline.execute())
    for name, kind, left_ms in zip(names, replies, replies, strict=True):
        found = [
            key
            for key in CATALOGUE
            if name == key.name or (key.name.endswith(":") and name.startswith(key.name))
        ]
        assert found, f"{name} is not in the catalogue"
        assert kind == found[0].type, name
        if found[0].lifetime is Lifetime.RETENTION:
            assert left_ms > 0, f"{name} would stay for ever"
        assert found[0].lifetime is not Lifetime.EMPTIED, (
            f"{name} holds something that is not needed"
        )
