"""The names of the published API: its operations, its targets and its errors.

`wire` writes errors as HTTP answers. The other modules decide which call gets an error.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class OperationClass(StrEnum):
    """The classes of calls that a quota limits separately."""

    STARTS = "starts"
    READS = "reads"


class Operation(StrEnum):
    """The operations that the server offers, by their names in botocore."""

    IMPORT_BACKEND_AUTH = "ImportBackendAuth"
    IMPORT_BACKEND_STORAGE = "ImportBackendStorage"
    GET_BACKEND_JOB = "GetBackendJob"
    LIST_BACKEND_JOBS = "ListBackendJobs"
    GET_BACKEND_AUTH = "GetBackendAuth"
    GET_BACKEND_STORAGE = "GetBackendStorage"

    @property
    def operation_class(self) -> OperationClass:
        """The class whose token bucket limits a call."""
        return OperationClass.STARTS if self in STARTS else OperationClass.READS


STARTS = frozenset({Operation.IMPORT_BACKEND_AUTH, Operation.IMPORT_BACKEND_STORAGE})
"""The operations that start a job."""


@dataclass(frozen=True, slots=True)
class Target:
    """One app environment, in one account and region."""

    account: str
    region: str
    app_id: str
    environment: str

    @property
    def path(self) -> str:
        """The target in its short form: `app/environment`."""
        return f"{self.app_id}/{self.environment}"


@dataclass(eq=False)
class ApiError(Exception):
    """An answer with a status other than 200. `code` is its name in the published documentation.

    The answer's body has `members` in addition to the message. Its headers include `headers` in
    addition to the error type.
    """

    status: int
    code: str
    message: str
    members: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def bad_request(message: str) -> ApiError:
    """Return the answer to a malformed request."""
    return ApiError(400, "BadRequestException", message)


def not_found(resource_type: str, name: str) -> ApiError:
    """Return the answer to a request for something that does not exist."""
    message = f"{resource_type} {name} does not exist."
    return ApiError(404, "NotFoundException", message, {"resourceType": resource_type})


def limit_exceeded(limit_type: str, message: str, headers: dict[str, str]) -> ApiError:
    """Return the answer to a request that exceeds a quota."""
    return ApiError(429, "LimitExceededException", message, {"limitType": limit_type}, headers)


def gateway_timeout() -> ApiError:
    """Return the answer to a request that timed out inside the service."""
    return ApiError(504, "InternalServiceException", "Endpoint request timed out")


def internal_failure() -> ApiError:
    """Return the answer to a request that made the service fail.

    The documentation of this API does not list it, but every AWS API can give it.
    """
    return ApiError(500, "InternalFailure", "The request processing has failed.")


def forbidden(code: str, message: str) -> ApiError:
    """Return the answer to a caller that is unknown or not allowed to make the request."""
    return ApiError(403, code, message)
