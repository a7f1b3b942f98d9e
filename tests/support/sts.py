"""AWS's Security Token Service by HTTP: roles that can be assumed, and can be revoked.

It checks who assumes a role and with which external id, as a role's trust policy does.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs

HOUR: Final = 3600

ASSUMED: Final = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleResult><Credentials><AccessKeyId>{key}</AccessKeyId>
<SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>
<Expiration>{until:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>
<AssumedRoleUser><Arn>{arn}</Arn><AssumedRoleId>AROA:worker</AssumedRoleId></AssumedRoleUser>
</AssumeRoleResult></AssumeRoleResponse>"""

DENIED: Final = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<Error><Type>Sender</Type><Code>AccessDenied</Code>
<Message>not authorized to perform: sts:AssumeRole on resource: {arn}</Message></Error>
</ErrorResponse>"""


@dataclass(frozen=True, slots=True)
class Trust:
    """Who may assume a role: a role or an access key, with this external id."""

    caller: str
    external_id: str = ""


class Sts:
    """The service on a thread of its own. Roles without an entry in `trusts` trust everybody.

    `keys` maps each access key that was issued to its role, and `refused` counts refusals. A role
    in `lasting_keys` always gets the same key, for an API that knows an account by its key.
    `on_issued` is called with each key, on a thread of the service.
    """

    def __init__(self) -> None:
        self.trusts: dict[str, Trust] = {}
        self.revoked: set[str] = set()
        self.keys: dict[str, str] = {}
        self.lasting_keys: dict[str, str] = {}
        self.on_issued: Callable[[str], None] = lambda _: None
        self.assumed: list[str] = []
        self.refused = 0
        self.lifetime_seconds = HOUR
        self._lock = threading.Lock()
        sts = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                caller = self.headers["authorization"].partition("Credential=")[2].partition("/")[0]
                status, text = sts.assume({k: v[0] for k, v in parse_qs(body).items()}, caller)
                self.send_response(status)
                self.send_header("content-type", "text/xml")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The endpoint URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def assume(self, request: dict[str, str], caller: str) -> tuple[int, str]:
        """Answer a request that `caller`, an access key, has signed."""
        arn = request["RoleArn"]
        with self._lock:
            trust = self.trusts.get(arn)
            identity = Trust(self.keys.get(caller, caller), request.get("ExternalId", ""))
            if arn in self.revoked or (trust and identity != trust):
                self.refused += 1
                return 403, DENIED.format(arn=arn)
            key = self.lasting_keys.get(arn, f"ASIA{len(self.assumed):016}")
            self.keys[key] = arn
            self.assumed.append(arn)
        self.on_issued(key)
        until = datetime.now(UTC) + timedelta(seconds=self.lifetime_seconds)
        return 200, ASSUMED.format(key=key, until=until, arn=arn)
