"""The exceptions with which the task of an import that did not succeed fails."""

from worker.domain.states import State


class ImportEndedError(Exception):
    """An import reached a terminal state other than `succeeded`."""


class ImportFailed(ImportEndedError):  # noqa: N818 - the name is part of the contract
    """The remote job failed, or AWS answered with an error that a retry can't fix."""


class ImportRejected(ImportEndedError):  # noqa: N818 - the name is part of the contract
    """The request was refused, by our own validation or by AWS."""


class ImportTimedOut(ImportEndedError):  # noqa: N818 - the name is part of the contract
    """The deadline passed before the remote job reached a terminal status."""


class ImportCancelled(ImportEndedError):  # noqa: N818 - the name is part of the contract
    """The import was cancelled."""


ERROR_OF_STATE: dict[State, type[ImportEndedError]] = {
    State.FAILED: ImportFailed,
    State.REJECTED: ImportRejected,
    State.TIMED_OUT: ImportTimedOut,
    State.CANCELLED: ImportCancelled,
}
