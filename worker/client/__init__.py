"""The clients for other programs. Their public name is `amplify_import`."""

from worker.client.asynchronous import AsyncImportClient, NotKnownError
from worker.client.results import Event, ImportResult
from worker.client.synchronous import ImportClient
from worker.domain.outcomes import Cancellation, Retried
from worker.domain.states import State
from worker.domain.submissions import (
    ConflictError,
    InvalidSubmissionError,
    Problem,
    SubmissionError,
)
from worker.store.batchview import BatchCounts
from worker.store.connection import StoreUnavailableError

__all__ = [
    "AsyncImportClient",
    "BatchCounts",
    "Cancellation",
    "ConflictError",
    "Event",
    "ImportClient",
    "ImportResult",
    "InvalidSubmissionError",
    "NotKnownError",
    "Problem",
    "Retried",
    "State",
    "StoreUnavailableError",
    "SubmissionError",
]
