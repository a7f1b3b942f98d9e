"""Amazon EventBridge: each event is an entry of an event bus."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from worker.relay.aws import AwsSink, is_about_the_event, refused
from worker.relay.event import Event
from worker.relay.sink import Delivered, Failed, Fault, Outcome
from worker.relay.sinksfile import EventBridgeSettings


class EventBridge(AwsSink):
    """Puts events on a bus: the detail is the whole CloudEvent, the detail type its type."""

    def __init__(self, settings: EventBridgeSettings) -> None:
        super().__init__("events", settings)
        self._bus = settings.bus

    async def _send(self, client: Any, events: Sequence[Event]) -> Sequence[Outcome]:
        entries = [
            {
                "Time": datetime.fromisoformat(event.time),
                "Source": event.source,
                "DetailType": event.type,
                "Detail": event.text,
                "EventBusName": self._bus,
            }
            for event in events
        ]
        answer = await client.put_events(Entries=entries)
        return [_outcome(entry) for entry in answer["Entries"]]


def _outcome(entry: dict[str, str]) -> Delivered | Failed:
    if "EventId" in entry:
        return Delivered()
    code = entry.get("ErrorCode", "")
    fault = Fault.EVENT if is_about_the_event(code) else Fault.SINK
    return refused(code, entry.get("ErrorMessage", ""), fault)
