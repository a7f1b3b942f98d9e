"""A small HTTP server on its own threads, so that it answers while an event loop hangs."""

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Final

import structlog

log = structlog.get_logger()

CLIENT_SECONDS: Final = 10
POLL_SECONDS: Final = 0.2
PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers."""

    body: bytes
    content_type: str = PLAIN
    status: HTTPStatus = HTTPStatus.OK


MakePage = Callable[[str], Page]
"""Makes a page for a request's Accept header."""


def health_page(reasons: Sequence[str]) -> Page:
    """Return a page that says `ok`, or why not, with status 503."""
    if not reasons:
        return Page(b"ok\n")
    body = "".join(f"{reason}\n" for reason in reasons)
    return Page(body.encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)


class PageServer:
    """Serves pages by GET and HEAD. It listens at once, and answers after `start`.

    Raises:
        OSError: if it can't listen there.

    """

    def __init__(self, host: str, port: int) -> None:
        self._thread: threading.Thread | None = None
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._server = _server_of(family)((host, port), _Handler)
        # A forked pool process would otherwise keep the port when this process has ended.
        os.register_at_fork(after_in_child=self._server.socket.close)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._server.server_address[1])

    def start(self, pages: Mapping[str, MakePage]) -> None:
        """Begin to answer, with the pages of these paths."""
        self._server.pages = pages
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        if self._thread is not None:  # otherwise this would wait forever
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True  # a restarted worker gets its port at once
    daemon_threads = True
    request_queue_size = 16
    pages: Mapping[str, MakePage] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log no traceback: the client has gone, or was too slow."""
        log.debug("metrics.client_lost", client=str(client_address))


def _server_of(family: int) -> type[_Server]:
    return type("Server", (_Server,), {"address_family": family})


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS
    protocol_version = "HTTP/1.0"
    server: _Server

    def do_GET(self) -> None:
        """Answer with a page."""
        page = self._page()
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - http.server names it

    def _page(self) -> Page:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            known = ", ".join(self.server.pages)
            return Page(f"not found; there are {known}\n".encode(), status=HTTPStatus.NOT_FOUND)
        try:
            return make(self.headers.get("Accept", ""))
        except Exception:
            log.exception("metrics.page_failed", path=self.path)
            return Page(b"failed; see the log\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)

    def version_string(self) -> str:
        """Return the header Server, without the versions of libraries."""
        return "amplify-import-worker"

    def log_message(self, *_: object) -> None:
        """Log no requests: probes come every few seconds."""
