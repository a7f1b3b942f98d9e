"""Cognito: moto's server, with what moto lacks: roles of identity pools, and refusals."""

import json
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Self

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

REGION: Final = "us-east-1"
DENIED: Final = ("400 Bad Request", "AccessDeniedException", "not authorized to perform this")
THROTTLED: Final = ("400 Bad Request", "TooManyRequestsException", "Rate exceeded")
BROKEN: Final = ("500 Internal Server Error", "InternalErrorException", "try again")


class CognitoServer:
    """The services on a thread of their own.

    `calls` counts calls by the name of the operation, and `callers` by access key. `refusals` has
    answers by operation, for all of its calls; `times` limits their number. `roles` has the roles
    of identity pools.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.callers: Counter[str] = Counter()
        self.refusals: dict[str, tuple[str, str, str]] = {}
        self.times: dict[str, int] = {}
        self.roles: dict[str, dict[str, str]] = {}
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        self._clients = {
            name: boto3.client(
                name,
                endpoint_url=self.url,
                region_name=REGION,
                aws_access_key_id="AKIATESTDEFAULT00000",
                aws_secret_access_key="not-a-secret",
            )
            for name in ("cognito-idp", "cognito-identity")
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The endpoint URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which AWS's tools use this server."""
        return {
            "AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER": self.url,
            "AWS_ENDPOINT_URL_COGNITO_IDENTITY": self.url,
        }

    def forget_calls(self) -> None:
        """Forget calls and refusals; the pools stay."""
        self.calls.clear()
        self.callers.clear()
        self.refusals.clear()
        self.times.clear()

    def user_pool(self) -> str:
        """Create a user pool; return its id."""
        found = self._clients["cognito-idp"].create_user_pool(PoolName="pool")
        return str(found["UserPool"]["Id"])

    def app_client(self, pool: str, *, secret: bool = False, **settings: Any) -> str:
        """Create an app client of a user pool; return its id."""
        found = self._clients["cognito-idp"].create_user_pool_client(
            UserPoolId=pool, ClientName="client", GenerateSecret=secret, **settings
        )
        return str(found["UserPoolClient"]["ClientId"])

    def names(self, web: Any = (), native: Any = ()) -> dict[str, str]:
        """Create a pool and two clients with these settings; return the members that name them."""
        pool = self.user_pool()
        return {
            "userPoolId": pool,
            "webClientId": self.app_client(pool, **dict(web)),
            "nativeClientId": self.app_client(pool, **dict(native)),
        }

    def identity_pool(
        self,
        pool: str,
        *clients: str,
        roles: Iterable[str] = ("authenticated", "unauthenticated"),
    ) -> str:
        """Create an identity pool that lists these app clients; return its id."""
        provider = f"cognito-idp.{REGION}.amazonaws.com/{pool}"
        found = self._clients["cognito-identity"].create_identity_pool(
            IdentityPoolName="pool",
            AllowUnauthenticatedIdentities=True,
            CognitoIdentityProviders=[
                {"ProviderName": provider, "ClientId": client} for client in clients
            ],
        )
        identity_pool = str(found["IdentityPoolId"])
        self.roles[identity_pool] = {role: f"arn:aws:iam::1:role/{role}" for role in roles}
        return identity_pool

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        key = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
        self.calls[operation] += 1
        self.callers[key] += 1
        if refusal := self._refusal(operation):
            status, code, message = refusal
            return _reply(start_response, status, {"__type": code, "message": message})
        if operation == "GetIdentityPoolRoles":
            asked = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            roles = self.roles.get(asked["IdentityPoolId"], {})
            return _reply(start_response, "200 OK", {**asked, "Roles": roles})
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def _refusal(self, operation: str) -> tuple[str, str, str] | None:
        if self.times.get(operation, 1) < 1:
            return None
        if operation in self.times:
            self.times[operation] -= 1
        return self.refusals.get(operation)


def _reply(start_response: Any, status: str, members: dict[str, Any]) -> list[bytes]:
    body = json.dumps(members).encode()
    start_response(
        status,
        [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(body)))],
    )
    return [body]
