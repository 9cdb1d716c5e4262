"""The raw level: each instruction as its name, flags and arguments, before anyone asks what they mean.

instruction = name { flag } arguments { heredoc body }

How the arguments fall apart depends on the name, see `arguments`. Words keep their quotes.
"""

import msgspec

from pybuild.dockerfile.arguments import (
    ARGUMENTS,
    BadArgumentsError,
    Token,
    split_arguments,
    split_around,
    word_at,
)
from pybuild.dockerfile.directives import Directive, read_directives
from pybuild.dockerfile.errors import DockerfileError, InvalidValueError, Span, did_you_mean, shown
from pybuild.dockerfile.flags import Flag, split_flags
from pybuild.dockerfile.heredocs import Heredoc, HeredocWord, find_heredocs
from pybuild.dockerfile.lines import WHITESPACE, LineReader, LogicalLine

HEREDOC_TAKERS = ("add", "copy", "run")

EMPTY_CONTINUATION = "NoEmptyContinuation"

_UPPER_NAMES = tuple(name.upper() for name in ARGUMENTS)


class Warned(msgspec.Struct, frozen=True):
    """Something that is allowed but likely meant otherwise: the rule's name, a sentence and a line.

    `original` is the instruction as written, `comments` stand right above it.
    """

    name: str
    message: str
    line: int
    original: str = ""
    comments: tuple[str, ...] = ()


class Node(msgspec.Struct, frozen=True):
    """One instruction; `name` is folded to lower case, `text` is all after the flags.

    Of ONBUILD `child` is the trigger, and `text` the trigger with its flags. `start` is where in `line` it begins.
    """

    name: str
    flags: tuple[Flag, ...]
    tokens: tuple[Token, ...]
    text: str
    is_json: bool
    span: Span
    line: LogicalLine
    start: int
    source: str
    file: str
    heredocs: tuple[Heredoc, ...] = ()
    child: "Node | None" = None

    @property
    def args(self) -> tuple[str, ...]:
        """Return the arguments alone. ENV and LABEL have three for each pair: name, value, and "=" or ""."""
        return tuple(token.text for token in self.tokens)

    @property
    def original(self) -> str:
        """Return the instruction as written, continuations joined."""
        return self.line.text[self.start :].strip(WHITESPACE)

    def error(self, message: str, span: Span | None = None, hint: str = "") -> DockerfileError:
        """Return an error that points at `span`, or at the beginning of the instruction."""
        place = span or self.line.span(self.start, len(self.line.text.rstrip(WHITESPACE)))
        lines = self.source.split("\n")
        first = place.start_line - self.span.start_line
        source = "\n".join(lines[first : first + place.end_line - place.start_line + 1])
        return DockerfileError(message, hint, file=self.file, span=place, source=source)

    def error_at(self, token: Token, message: str, hint: str = "") -> DockerfileError:
        """Return an error that points at an argument."""
        return self.error(message, self.line.span(token.start, token.end), hint)


class RawFile(msgspec.Struct, frozen=True):
    """A file at the raw level."""

    name: str
    text: str
    directives: dict[str, Directive]
    escape: str
    nodes: tuple[Node, ...]
    warnings: tuple[Warned, ...] = ()


def read_nodes(text: str, name: str, *, escape: str | None = None) -> RawFile:
    """Return the instructions of a decoded file; with `escape` given no directives are looked for.

    Raises DockerfileError for unknown instructions, heredocs without an end, and files without instructions.
    """
    directives = read_directives(text, name) if escape is None else {}
    if escape is None:
        escape = directives["escape"].value if "escape" in directives else "\\"
    reader = LineReader(text, name, escape)
    context = _Reading(reader, name, escape)
    while (line := reader.read()) is not None:
        context.add(line)
    if not context.nodes:
        raise DockerfileError("file with no instructions", file=name)
    return RawFile(name, text, directives, escape, tuple(context.nodes), tuple(context.warnings))


class _Reading(msgspec.Struct):
    """A file being read."""

    reader: LineReader
    name: str
    escape: str
    nodes: list[Node] = msgspec.field(default_factory=list)
    warnings: list[Warned] = msgspec.field(default_factory=list)

    def add(self, line: LogicalLine) -> None:
        original = line.text.strip(WHITESPACE)
        if line.empty_continuation:
            message = "Empty continuation line"
            self.warnings.append(Warned(EMPTY_CONTINUATION, message, line.end_line, original, line.comments))
        self.nodes.append(self._node(line, 0))

    def _node(self, line: LogicalLine, offset: int, *, trigger: bool = False) -> Node:
        """Read the instruction at `offset` of the line; ONBUILD reads its trigger by this once more."""
        start, name_end = word_at(line.text, offset, len(line.text))
        written = line.text[start:name_end]
        name = written.lower()
        if name not in ARGUMENTS:
            message = f"unknown instruction: {shown(written)}{did_you_mean(name.upper(), _UPPER_NAMES)}"
            raise self.reader.error(message, line.span(start, name_end))
        flags, rest = split_flags(line.text, name_end, self.escape, line.span)
        end = len(line.text.rstrip(WHITESPACE))
        rest = min(rest, end)
        child = None
        tokens: list[Token] = []
        is_json = False
        if name == "onbuild":
            # A trigger's own trigger is refused later; nothing is read deeper than it can go
            child = self._node(line, rest, trigger=True) if rest < end and not trigger else None
            heredocs = child.heredocs if child else ()
        else:
            tokens, is_json = self._arguments(name, line, rest, end)
            words = self._heredoc_words(line, rest, end) if name in HEREDOC_TAKERS and not is_json else []
            if words and name != "run":
                tokens = split_around(line.text, rest, end, words)
            heredocs = tuple([self._body(line, word) for word in words])
        first = line.span(start, end)
        span = Span(line.start_line, self.reader.line, first.column, first.length)
        return Node(
            name=name,
            flags=tuple(flags),
            tokens=tuple(tokens),
            text=line.text[rest:end],
            is_json=is_json,
            span=span,
            line=line,
            start=start,
            source=self.reader.source(span),
            file=self.name,
            heredocs=heredocs,
            child=child,
        )

    def _arguments(self, name: str, line: LogicalLine, start: int, end: int) -> tuple[list[Token], bool]:
        try:
            return split_arguments(name, line.text, start, end, self.escape)
        except BadArgumentsError as error:
            message = f"{name.upper()} {error.message}" if error.named else error.message
            raise self.reader.error(message, line.span(error.start, error.end), error.hint) from error

    def _heredoc_words(self, line: LogicalLine, start: int, end: int) -> list[HeredocWord]:
        try:
            return find_heredocs(line.text[:end], start)
        except InvalidValueError as error:
            raise self.reader.error(error.message, line.span(start, end), error.hint) from error

    def _body(self, line: LogicalLine, word: HeredocWord) -> Heredoc:
        content = self.reader.read_heredoc(word.name, strip_tabs=word.strip_tabs)
        if content is None:
            hint = f"end it with a line that is exactly `{shown(word.name)}`"
            raise self.reader.error(f"unterminated heredoc: {shown(word.name)}", line.span(word.start, word.end), hint)
        return word.with_content(content)
