"""`ImportBackendAuth`: imports an existing Cognito user pool into the backend of an Amplify app."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from worker.domain.preflight import Checked, Finding, Place
from worker.domain.requests import LOOKS_LIKE, ImportRequest, text_like
from worker.operations.auth_preflight import findings_about
from worker.operations.backend_operation import KEPT_SECONDS, BackendOperation
from worker.operations.cognito import Cognito, UnavailableError

if TYPE_CHECKING:
    from worker.operations.aws import Aws  # importing it takes longer than a command may take

# Patterns as the Cognito API references publish them.
UserPoolId = Annotated[str, text_like(r"^[A-Za-z0-9_-]+_[0-9a-zA-Z]+$", 55)]
ClientId = Annotated[str, text_like(r"^[A-Za-z0-9_+]+$", 128)]
IdentityPoolId = Annotated[str, text_like(r"^[A-Za-z0-9_-]+:[0-9a-f-]+$", 55)]


class ImportBackendAuthRequest(ImportRequest):
    """The user pool to import, its two app clients and, if there is one, its identity pool."""

    looks_like: ClassVar = {
        **LOOKS_LIKE,
        "userPoolId": "us-east-1_AbCdEf123",
        "webClientId": "3n4b5urk1ft4fl3mg5e62d9ado",
        "nativeClientId": "3n4b5urk1ft4fl3mg5e62d9ado",
        "identityPoolId": "us-east-1:0a1b2c3d-0123-4567-89ab-0123456789ab",
    }

    operation: Literal["ImportBackendAuth"] = "ImportBackendAuth"
    user_pool_id: UserPoolId
    """The Cognito user pool to import."""
    web_client_id: ClientId
    """The user pool's app client for web apps."""
    native_client_id: ClientId
    """The user pool's app client for native apps."""
    identity_pool_id: IdentityPoolId | None = None
    """The Cognito identity pool to import with it, if there is one."""


class ImportBackendAuth(BackendOperation):
    """Imports an existing Cognito user pool."""

    request = ImportBackendAuthRequest
    shown = (
        "auth",
        {
            "UserPoolId": "userPoolId",
            "AppClientIDWeb": "webClientId",
            "AppClientID": "nativeClientId",
            "IdentityPoolId": "identityPoolId",
        },
    )

    def __init__(self, aws: "Aws", kept_seconds: float = KEPT_SECONDS) -> None:
        super().__init__(aws, kept_seconds)
        self._cognito = Cognito(aws, kept_seconds)

    async def preflight(self, members: Mapping[str, str], place: Place) -> Checked:
        """Ask Cognito about the user pool, its app clients and the identity pool."""
        found: list[Finding] = []
        try:
            async for finding in findings_about(self._cognito, members, place):
                found += [finding]
        except UnavailableError as error:
            return Checked(tuple(found), unchecked=str(error))
        return Checked(tuple(found))
