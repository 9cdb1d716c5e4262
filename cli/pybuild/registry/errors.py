"""What can go wrong with a registry.

PybuildError
└── RegistryError          a registry, or the way to it; secrets are never part of a message
    ├── BrokenError        worth another try: the connection broke off, or the registry is busy
    ├── PlainTextError     a server that was spoken to in TLS knows none
    ├── AuthError          who asks is not known there, or may not
    ├── MissingError       what was asked for is not there
    └── WrongContentError  what came is not what was promised
"""

from pybuild.errors import PybuildError


class RegistryError(PybuildError):
    """A registry, or the way to it. `status` is its answer's, 0 for none."""

    def __init__(self, message: str, hint: str = "", *, status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class BrokenError(RegistryError):
    """Worth another try, `after` that many seconds if the registry says so (0: it does not)."""

    def __init__(self, message: str, hint: str = "", *, status: int = 0, after: float = 0.0) -> None:
        super().__init__(message, hint, status=status)
        self.after = after


class PlainTextError(RegistryError):
    """A server that was spoken to in TLS knows none."""


class AuthError(RegistryError):
    """Who asks is not known there, or may not."""


class MissingError(RegistryError):
    """What was asked for is not there."""

    http_status = 404


class WrongContentError(RegistryError):
    """What came is not what was promised."""
