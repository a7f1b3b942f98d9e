"""AWS's queues, topics and buses, served by moto in this process."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.support.sandbox import ACCESS_KEY


@contextmanager
def moto_serving() -> Iterator[str]:
    """Serve all services; return the URL."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class Cloud:
    """Queues, topics and buses, and what arrives in a queue."""

    def __init__(self, url: str) -> None:
        self.clients: dict[str, Any] = {
            name: boto3.client(
                name,
                endpoint_url=url,
                region_name="us-east-1",
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key="not-a-secret",
            )
            for name in ("sqs", "sns", "events")
        }

    def queue(self, name: str, **attributes: str) -> tuple[str, str]:
        """Create a queue, or empty it; return its URL and its ARN."""
        fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        sqs = self.clients["sqs"]
        url = sqs.create_queue(QueueName=name, Attributes={**fifo, **attributes})["QueueUrl"]
        sqs.purge_queue(QueueUrl=url)
        return url, self.attributes(url)["QueueArn"]

    def attributes(self, url: str) -> dict[str, str]:
        """Return the attributes of a queue."""
        found = self.clients["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return dict(found["Attributes"])

    def left(self, url: str) -> int:
        """Return how many messages a queue has, visible or not."""
        found = self.attributes(url)
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(int(found[name]) for name in names)

    def send(self, url: str, *bodies: Any, **more: Any) -> list[str]:
        """Send messages, each a text or an object; return their ids."""
        texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
        sqs = self.clients["sqs"]
        return [
            sqs.send_message(QueueUrl=url, MessageBody=text, **more)["MessageId"] for text in texts
        ]

    def send_many(self, url: str, bodies: Sequence[Any]) -> None:
        """Send messages, ten at a time."""
        for start in range(0, len(bodies), 10):
            entries = [
                {"Id": str(number), "MessageBody": json.dumps(body)}
                for number, body in enumerate(bodies[start : start + 10])
            ]
            self.clients["sqs"].send_message_batch(QueueUrl=url, Entries=entries)

    def messages(self, url: str) -> list[dict[str, Any]]:
        """Return the messages that are in a queue now."""
        found = self.clients["sqs"].receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=0,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return list(found.get("Messages", []))

    def take(self, url: str) -> list[dict[str, Any]]:
        """Take some messages off a queue."""
        sqs, taken = self.clients["sqs"], []
        for message in self.messages(url):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            taken.append(message)
        return taken
