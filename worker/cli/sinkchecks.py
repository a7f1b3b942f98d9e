"""The checks of `doctor` about sinks: whether each is served, and takes what it gets."""

from collections.abc import Collection, Iterator
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.cli.checks import Check, Verdict
from worker.store.sinkviews import SinkView, read_sinks

_START: Final = "start a relay with this sinks file: amplify-import relay"


async def check_sinks(redis: "Redis", configured: Collection[str]) -> list[Check]:
    """Return a warning for each sink that is not served, or that needs an operator."""
    try:
        found = {sink.name: sink for sink in await read_sinks(redis)}
    except ResponseError:  # a user without this permission reads no streams
        return []
    never = sorted(set(configured) - set(found))
    return [
        *(Check(f"sink {name}", Verdict.WARN, "no relay has served it", _START) for name in never),
        *(check for sink in found.values() for check in _checks(sink, configured)),
    ]


def _checks(sink: SinkView, configured: Collection[str]) -> Iterator[Check]:
    name = f"sink {sink.name}"
    if not sink.relay:
        remedy = (
            _START
            if sink.name in configured
            else f"start its relay; if nobody needs it: amplify-import sinks forget {sink.name}"
        )
        yield Check(name, Verdict.WARN, "no relay serves it", remedy)
    if sink.disabled:
        remedy = f"remove it, or amplify-import sinks enable {sink.name}"
        yield Check(name, Verdict.WARN, f"disabled: {sink.disabled}", remedy)
    if sink.parked:
        remedy = f"see amplify-import sinks parked {sink.name}, then resend or drop them"
        yield Check(name, Verdict.WARN, f"{sink.parked:,} events are parked", remedy)
