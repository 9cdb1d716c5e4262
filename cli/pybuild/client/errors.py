"""What can go wrong between client and daemon.

PybuildError
└── DaemonError            the daemon cannot be started, reached or understood
    ├── DaemonBusyError    it serves another version or store, and cannot be replaced while it builds
    └── DaemonGoneError    it ended in the middle of an answer
"""

from typing import Any

from pybuild.errors import CancelledError, ConflictError, ExitCode, NotFoundError, PybuildError, UsageError


class DaemonError(PybuildError):
    """The daemon cannot be started, reached or understood."""


class DaemonBusyError(DaemonError):
    """It serves another version or store, and cannot be replaced while it builds."""


class DaemonGoneError(DaemonError):
    """It ended in the middle of an answer."""


class RemoteError(PybuildError):
    """An error of the engine told by the daemon, of a kind with no class on this side.

    `kind` is its class name there; `exit_code` and `http_status` are those it had, `traceback` may be empty.
    """

    def __init__(self, message: str, hint: str, *, kind: str, exit_code: int, status: int, traceback: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.exit_code = ExitCode(exit_code) if exit_code in set(ExitCode) else ExitCode.FAILED
        self.http_status = status
        self.traceback = traceback


_BY_STATUS: dict[int, type[PybuildError]] = {404: NotFoundError, 409: ConflictError}
_BY_KIND: dict[str, type[PybuildError]] = {
    kind.__name__: kind for kind in (UsageError, NotFoundError, ConflictError, CancelledError)
}


def error_from(status: int, body: Any) -> PybuildError:
    """Return the exception for an answer of that status and JSON body."""
    body = body if isinstance(body, dict) else {}
    message = str(body.get("message") or f"the daemon answered with status {status}")
    hint, kind = str(body.get("hint") or ""), str(body.get("kind") or "")
    # On routes of Docker's it is in the message, for clients that show nothing else
    message = message.removesuffix(f" ({hint})") if hint else message
    known = _BY_KIND.get(kind) or (None if kind else _BY_STATUS.get(status))
    if known is not None:
        return known(message, hint)
    exit_code = body.get("exit_code")
    return RemoteError(
        message,
        hint,
        kind=kind,
        exit_code=exit_code if isinstance(exit_code, int) else ExitCode.FAILED,
        status=status,
        traceback=str(body.get("traceback") or ""),
    )
