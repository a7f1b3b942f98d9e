"""`ImportBackendAuth`: imports an existing Cognito user pool into the backend of an Amplify app."""

from typing import Annotated, ClassVar, Literal

from worker.domain.requests import LOOKS_LIKE, ImportRequest, text_like
from worker.operations.backend_operation import BackendOperation

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
