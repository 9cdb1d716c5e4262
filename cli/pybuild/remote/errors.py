"""What can go wrong while something is fetched.

PybuildError
└── RemoteError          a server, or the way to it; credentials are never part of a message
    ├── AddressError     an address that must not be reached
    └── GitError         git itself failed, or is not there
"""

from pybuild.errors import PybuildError


class RemoteError(PybuildError):
    """A server, or the way to it."""


class AddressError(RemoteError):
    """An address that must not be reached."""


class GitError(RemoteError):
    """Git itself failed, or is not there."""
