"""Errors of the context room.

ContextError              the context, or something in it, cannot be read
└── ChangedError          a file is no longer what it was when the build listed it
IgnoreError               a pattern, or an ignore file, that cannot be meant
"""

from pybuild.errors import PybuildError


class ContextError(PybuildError):
    """The context, or something in it, cannot be read."""

    http_status = 400


class ChangedError(ContextError):
    """A file of the context is no longer what it was when the build listed it."""


class IgnoreError(PybuildError):
    """A pattern that cannot be meant, or an ignore file beyond its limits.

    `line` counts from 1: lines of the file when one was read, else positions in the list of patterns.
    `pattern` is the offending text, "" when it is about the file as a whole.
    """

    http_status = 400

    def __init__(self, message: str, *, line: int = 0, pattern: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.line = line
        self.pattern = pattern
