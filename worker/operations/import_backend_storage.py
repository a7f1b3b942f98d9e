"""`ImportBackendStorage`: imports an existing S3 bucket into the backend of an Amplify app."""

from typing import Annotated, ClassVar, Literal

from worker.domain.requests import LOOKS_LIKE, ImportRequest, text_like
from worker.operations.backend_operation import BackendOperation

# As S3 documents it for general purpose buckets.
BucketName = Annotated[str, text_like(r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$", 63)]


class ImportBackendStorageRequest(ImportRequest):
    """The bucket to import. The API accepts a request without one, but that makes no sense."""

    looks_like: ClassVar = {**LOOKS_LIKE, "bucketName": "my-app-uploads"}

    operation: Literal["ImportBackendStorage"] = "ImportBackendStorage"
    bucket_name: BucketName
    """The S3 bucket to import."""
    service_name: Literal["S3"] = "S3"
    """The service of the storage. Default: `S3`, the only one."""


class ImportBackendStorage(BackendOperation):
    """Imports an existing bucket."""

    request = ImportBackendStorageRequest
    shown = ("storage", {"BucketName": "bucketName"})
