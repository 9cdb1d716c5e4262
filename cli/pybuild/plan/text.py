"""Expansion of a Dockerfile's words, with errors that know their place."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from pybuild.dockerfile.addresses import redacted
from pybuild.dockerfile.errors import DockerfileError, InvalidValueError, Span
from pybuild.dockerfile.parse import Dockerfile
from pybuild.dockerfile.words import expand, expand_body, expand_words

T = TypeVar("T")


class Text:
    """The file being planned: expands its words and places its errors."""

    def __init__(self, dockerfile: Dockerfile) -> None:
        self._dockerfile = dockerfile
        self._escape = dockerfile.escape

    def error(self, message: str, span: Span, hint: str = "") -> DockerfileError:
        """Return an error that points at `span`."""
        lines = self._dockerfile.text.split("\n")[span.start_line - 1 : span.end_line]
        return DockerfileError(message, hint, file=self._dockerfile.name, span=span, source=redacted("\n".join(lines)))

    def checked(self, parse: Callable[[str], T], value: str, span: Span) -> T:
        """Return `parse(value)`; an InvalidValueError gets its place."""
        try:
            return parse(value)
        except InvalidValueError as error:
            raise self.error(error.message, span, error.hint) from error

    def expand(self, word: str, values: Mapping[str, str], span: Span) -> str:
        """Return one word with its variables replaced and its quotes taken out."""
        return self.checked(lambda text: expand(text, values, self._escape), word, span)

    def words(self, text: str, values: Mapping[str, str], span: Span) -> list[str]:
        """Return the words that `text` has after expansion."""
        return self.checked(lambda word: expand_words(word, values, self._escape), text, span)

    def body(self, text: str, values: Mapping[str, str], span: Span) -> str:
        """Return the content of a heredoc with its variables replaced, escapes taken out and quotes kept."""
        return self.checked(lambda word: expand_body(word, values), text, span)
