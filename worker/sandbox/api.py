"""The words of the published API: its operations, its targets and its errors.

Owns the names only; how an error is put on the wire belongs to `wire`, who gets one to the others.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class OperationClass(StrEnum):
    """What a quota tells apart."""

    STARTS = "starts"
    READS = "reads"


class Operation(StrEnum):
    """The operations served, under botocore's names."""

    IMPORT_BACKEND_AUTH = "ImportBackendAuth"
    GET_BACKEND_JOB = "GetBackendJob"
    LIST_BACKEND_JOBS = "ListBackendJobs"
    GET_BACKEND_AUTH = "GetBackendAuth"

    @property
    def operation_class(self) -> OperationClass:
        """Which bucket pays for a call."""
        if self is Operation.IMPORT_BACKEND_AUTH:
            return OperationClass.STARTS
        return OperationClass.READS


@dataclass(frozen=True, slots=True)
class Target:
    """One app environment in one account and region."""

    account: str
    region: str
    app_id: str
    environment: str

    @property
    def path(self) -> str:
        """The target as people write it: `app/environment`."""
        return f"{self.app_id}/{self.environment}"


@dataclass(eq=False)
class ApiError(Exception):
    """An answer other than 200; `code` is the published page's name of it.

    `members` are served in the body beside the message, `headers` beside the error type.
    """

    status: int
    code: str
    message: str
    members: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def bad_request(message: str) -> ApiError:
    """Answer a request that is not formed properly."""
    return ApiError(400, "BadRequestException", message)


def not_found(resource_type: str, name: str) -> ApiError:
    """Answer a request for something that does not exist."""
    message = f"{resource_type} {name} does not exist."
    return ApiError(404, "NotFoundException", message, {"resourceType": resource_type})


def limit_exceeded(limit_type: str, message: str, headers: dict[str, str]) -> ApiError:
    """Answer a request that exceeds a quota."""
    return ApiError(429, "LimitExceededException", message, {"limitType": limit_type}, headers)


def gateway_timeout() -> ApiError:
    """Answer a request that the service gave up on."""
    return ApiError(504, "InternalServiceException", "Endpoint request timed out")


def internal_failure() -> ApiError:
    """Answer a request that broke the service; the page does not list it, every AWS API does."""
    return ApiError(500, "InternalFailure", "The request processing has failed.")


def forbidden(code: str, message: str) -> ApiError:
    """Answer a request whose caller is unknown or may not make it."""
    return ApiError(403, code, message)
