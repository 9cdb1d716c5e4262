"""The root of every error pybuild raises on purpose, and the exit codes scripts can rely on.

PybuildError              exit 1, HTTP 500
├── UsageError            exit 2, HTTP 400: flags or a request that cannot be meant
├── NotFoundError         exit 1, HTTP 404: a name that is not there
├── ConflictError         exit 1, HTTP 409: refused because of the present state
├── CancelledError        exit 130: Ctrl-C or the client went away
└── the rooms' own, each drawn in its errors module or beside its code
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of the command line."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BUG = 3
    PLUGIN = 70
    INTERRUPTED = 130


class PybuildError(Exception):
    """An expected failure: one sentence of what and why, and what to try.

    `message` has no full stop and puts the offending value last; `hint` may be empty.
    `http_status` is what the daemon answers; `kind` survives the trip to the client.
    """

    exit_code: ExitCode = ExitCode.FAILED
    http_status = 500

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(PybuildError):
    """Flags or a request that cannot be meant."""

    exit_code = ExitCode.USAGE
    http_status = 400


class NotFoundError(PybuildError):
    """A name that is not there."""

    http_status = 404


class ConflictError(PybuildError):
    """Refused because of the present state, such as an image still tagged."""

    http_status = 409


class CancelledError(PybuildError):
    """The user or the client went away before the end."""

    exit_code = ExitCode.INTERRUPTED
