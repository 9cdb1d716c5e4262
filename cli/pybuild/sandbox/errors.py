"""Errors of the sandbox room.

PybuildError
└── SandboxError                a sandbox or worker that could not be made, or what it refused
    ├── UserNamespaceError      this system or user may not make the namespaces needed
    ├── IdMapError              ids that cannot be mapped
    ├── ImageUserError          a USER that the image does not know, or that cannot be had here
    ├── NetworkError            a private network that cannot be had
    ├── LimitError              a limit that cannot be enforced
    └── JobFailedError          a job that ended without an answer, or with an error unknown here
"""

from pybuild.errors import PybuildError


class SandboxError(PybuildError):
    """A sandbox or worker that could not be made, or what it refused."""


class UserNamespaceError(SandboxError):
    """This system or user may not make the namespaces needed."""


class IdMapError(SandboxError):
    """Ids that cannot be mapped."""


class ImageUserError(SandboxError):
    """A USER that the image does not know, or that cannot be had here."""

    http_status = 400


class NetworkError(SandboxError):
    """A private network that cannot be had here."""


class LimitError(SandboxError):
    """A limit that cannot be enforced here."""


class JobFailedError(SandboxError):
    """A job that ended without an answer, or with an error that this process has no class for.

    `kind` is "died" or the name of that class.
    """

    def __init__(self, message: str, hint: str = "", *, kind: str = "died") -> None:
        super().__init__(message, hint)
        self.kind = kind
