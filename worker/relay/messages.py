"""Amazon SQS and SNS: each event is a message, whose body is the whole CloudEvent."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from worker.relay.aws import AwsSink, fifo_id, is_about_the_event, message_attributes, refused
from worker.relay.event import Event
from worker.relay.sink import Delivered, Fault, Outcome
from worker.relay.sinksfile import SnsSettings, SqsSettings


class _Messages(AwsSink):
    """Sends batches of messages. Those to a FIFO queue or topic have their group and their id."""

    _body = ""
    """The name of a message's body in the API."""

    def __init__(self, service: str, settings: SqsSettings | SnsSettings) -> None:
        super().__init__(service, settings)
        self._place = settings.place
        self._is_fifo = settings.place.endswith(".fifo")

    async def _send(self, client: Any, events: Sequence[Event]) -> Sequence[Outcome]:
        entries = [self._entry(number, event) for number, event in enumerate(events)]
        answer = await self._send_batch(client, entries)
        failed: dict[str, Outcome] = {
            each["Id"]: refused(each.get("Code", ""), each.get("Message", ""), _fault_of(each))
            for each in answer.get("Failed", ())
        }
        return [failed.get(entry["Id"], Delivered()) for entry in entries]

    def _entry(self, number: int, event: Event) -> dict[str, Any]:
        entry = {
            "Id": str(number),
            self._body: event.text,
            "MessageAttributes": message_attributes(event),
        }
        if self._is_fifo:
            entry["MessageGroupId"] = fifo_id(event.subject)
            entry["MessageDeduplicationId"] = fifo_id(event.id)
        return entry

    @abstractmethod
    async def _send_batch(self, client: Any, entries: Sequence[dict[str, Any]]) -> Any:
        """Send the entries with one call, and return the answer."""


class Sqs(_Messages):
    """Sends events to a queue of Amazon SQS."""

    _body = "MessageBody"

    def __init__(self, settings: SqsSettings) -> None:
        super().__init__("sqs", settings)

    async def _send_batch(self, client: Any, entries: Sequence[dict[str, Any]]) -> Any:
        return await client.send_message_batch(QueueUrl=self._place, Entries=entries)


class Sns(_Messages):
    """Publishes events to a topic of Amazon SNS."""

    _body = "Message"

    def __init__(self, settings: SnsSettings) -> None:
        super().__init__("sns", settings)

    async def _send_batch(self, client: Any, entries: Sequence[dict[str, Any]]) -> Any:
        return await client.publish_batch(TopicArn=self._place, PublishBatchRequestEntries=entries)


def _fault_of(failed: dict[str, Any]) -> Fault:
    is_invalid = failed.get("SenderFault") and is_about_the_event(failed.get("Code", ""))
    return Fault.EVENT if is_invalid else Fault.SINK
