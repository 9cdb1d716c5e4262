"""Errors of the Dockerfile language, and the places they point at.

DockerfileError         HTTP 400: the file says something wrong, at a place
InvalidValueError       HTTP 400: a value, often known only after expansion, cannot be meant; no place yet
└── ExpansionError      HTTP 400: a variable form is wrong, or demands a variable that is not set
"""

from collections.abc import Iterable

import msgspec

from pybuild.errors import PybuildError

SHOWN = 80
"""Most characters of an offending value that a message repeats."""


class Span(msgspec.Struct, frozen=True):
    """A place in a file: lines and column count from 1, `length` is in characters of the first line."""

    start_line: int
    end_line: int
    column: int
    length: int


class DockerfileError(PybuildError):
    """The file says something wrong; `source` is the text of the lines of `span`.

    `message` is free of file and line, `str()` begins with the line as other builders print it.
    """

    http_status = 400

    def __init__(
        self, message: str, hint: str = "", *, file: str = "Dockerfile", span: Span | None = None, source: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.file = file
        self.span = span
        self.source = source

    def __str__(self) -> str:
        if self.span is None:
            return self.message
        return f"dockerfile parse error on line {self.span.start_line}: {self.message}"


class InvalidValueError(PybuildError):
    """A value that cannot be meant; whoever knows the instruction turns it into a DockerfileError."""

    http_status = 400


class ExpansionError(InvalidValueError):
    """A variable form that is wrong, too big, or demands a variable that is not set."""


def shown(text: str) -> str:
    """Return `text` short enough for a message, on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else flat[:SHOWN] + "..."


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` is most likely a slip of."""
    # Only a mistake needs it, and importing it takes time
    import difflib

    # The matcher is quadratic in the length, and long words are no slips
    found = difflib.get_close_matches(word, list(known), 1) if len(word) <= 32 else []
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ` (did you mean X?)`, or nothing when no known word is near."""
    found = near(word, known)
    return f" (did you mean {prefix}{found}?)" if found else ""
