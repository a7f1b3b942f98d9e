"""Errors of what `run` and `demo` start on this machine. Each message is a sentence for users."""


class LocalError(Exception):
    """Something that this program starts on this machine does not run."""


class StateError(LocalError):
    """The state directory can't be written to, or another process uses it."""


class ServerError(LocalError):
    """The server does not start, or has ended. The message contains the end of its log."""


class WorkersError(LocalError):
    """The workers end again and again. The message names their log file."""
