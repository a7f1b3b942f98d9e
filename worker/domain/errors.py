"""The errors that users meet: how an import that did not succeed ends its task."""

from worker.domain.states import State


class ImportEndedError(Exception):
    """An import reached a terminal state other than `succeeded`."""


class ImportFailed(ImportEndedError):  # noqa: N818 - the name is part of the contract
    """The remote job failed, or AWS answered with an error that no retry can mend."""


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
