"""What a message of a queue holds: a request, or an envelope of SNS or EventBridge around one.

Both services may deliver something twice, in two messages. Their own ids stay the same.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from config.names import TRACEPARENT_HEADER, TRACESTATE_HEADER
from worker.domain.traces import TraceContext, read_trace
from worker.operations.requests_queue import QueueMessage


@dataclass(frozen=True, slots=True)
class Content:
    """A request as text. `id` is the same whenever the same request is delivered."""

    id: str
    text: str
    trace: TraceContext | None = None


class _Attribute(BaseModel):
    value: Annotated[str, Field(alias="Value")]


class _Notification(BaseModel):
    """https://docs.aws.amazon.com/sns/latest/dg/sns-sqs-as-subscriber.html."""

    type: Annotated[Literal["Notification"], Field(alias="Type")]
    id: Annotated[str, Field(alias="MessageId")]
    topic_arn: Annotated[str, Field(alias="TopicArn")]
    message: Annotated[str, Field(alias="Message")]
    attributes: Annotated[dict[str, _Attribute], Field(alias="MessageAttributes")] = {}

    def content(self) -> Content:
        attributes = {name: each.value for name, each in self.attributes.items()}
        return Content(f"{self.topic_arn}/{self.id}", self.message, _trace(attributes))


class _Event(BaseModel):
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html."""

    detail_type: Annotated[str, Field(alias="detail-type")]
    id: str
    source: str
    detail: dict[str, Any]

    def content(self) -> Content:
        return Content(f"{self.source}/{self.id}", json.dumps(self.detail))


def content_of(queue: str, message: QueueMessage) -> Content:
    """Return what a message of the queue of this name holds.

    What is no envelope is the request itself, valid or not.
    """
    envelope: type[_Notification | _Event]
    for envelope in (_Notification, _Event):
        with suppress(ValidationError):
            return envelope.model_validate_json(message.body).content()
    return Content(f"{queue}/{message.id}", message.body, _trace(message.attributes))


def _trace(attributes: Mapping[str, str]) -> TraceContext | None:
    return read_trace(attributes.get(TRACEPARENT_HEADER), attributes.get(TRACESTATE_HEADER))
