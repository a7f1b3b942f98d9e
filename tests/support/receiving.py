"""A receiver of webhooks: a real HTTP server, in this process or in one of its own."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET: Final = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver answers."""

    status: int = 204
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Message:
    """A request that arrived, and what was answered."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int

    @property
    def event(self) -> dict[str, Any]:
        """The event in the body."""
        return dict(json.loads(self.body))


Decide = Callable[[dict[str, Any]], Answer]


def accept(_event: dict[str, Any]) -> Answer:
    """Accept every event."""
    return Answer()


class Receiver:
    """Answers each event as `decide` says, which may be replaced at any time."""

    def __init__(self, decide: Decide = accept, port: int = 0) -> None:
        self.decide = decide
        self.messages: list[Message] = []
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.receiver = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where to send events."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/events"

    @property
    def accepted(self) -> list[str]:
        """The ids of the accepted events, in the order in which they were accepted."""
        return [each.event["id"] for each in self.messages if each.status < 300]

    def note(self, message: Message) -> None:
        """Note a request before it is answered."""
        self.messages.append(message)


class _Server(ThreadingHTTPServer):
    receiver: Receiver
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver = self.server.receiver
        answer = receiver.decide(json.loads(body))
        receiver.note(Message(self.path, dict(self.headers), body, answer.status))
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None: ...


class _Recorder(Receiver):
    """Appends the path and the id of each event to a file before it answers."""

    def note(self, message: Message) -> None:
        with Path(os.environ["RECEIVED"]).open("a") as file:
            file.write(f"{message.path} {message.event['id']}\n")


def main() -> None:
    """Receive on the port RECEIVER_PORT until killed."""
    with _Recorder(port=int(os.environ["RECEIVER_PORT"])):
        threading.Event().wait()
