"""Physical lines become logical ones: continuations joined, comments taken out, every character's place kept."""

from bisect import bisect_right

import msgspec

from pybuild.dockerfile.errors import DockerfileError, Span

MAX_FILE = 4 << 20
"""Most bytes of a Dockerfile."""

MAX_LINES = 100_000

MAX_LINE = 65535
"""Most bytes of a logical line."""

WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""Unicode's White_Space; `str.strip()` alone would take separators such as \\x1c too."""

BLANKS = "\t\v\f\r "
"""What divides plain arguments, the instruction's name from them above all."""


class Piece(msgspec.Struct, frozen=True):
    """Where one physical line's share of a logical line begins: its offset there, its line and column here."""

    offset: int
    line: int
    column: int


class LogicalLine(msgspec.Struct, frozen=True):
    """One instruction's text; `comments` are the comment lines right above it, without their `#`."""

    text: str
    pieces: tuple[Piece, ...]
    start_line: int
    end_line: int
    comments: tuple[str, ...] = ()
    empty_continuation: bool = False

    def span(self, start: int, end: int) -> Span:
        """Return the place of `text[start:end]`, cut at the end of the physical line that it starts on."""
        index = max(bisect_right(self.pieces, start, key=lambda piece: piece.offset) - 1, 0)
        piece = self.pieces[index]
        limit = self.pieces[index + 1].offset if index + 1 < len(self.pieces) else len(self.text)
        length = max(min(end, limit) - start, 1)
        return Span(piece.line, piece.line, piece.column + start - piece.offset, length)


def decode(data: str | bytes, name: str) -> str:
    """Return the text of a file without its byte order mark; raise DockerfileError if it is too big or not UTF-8."""
    size = len(data)
    try:
        # A text from a request may hold lone surrogates, which nothing later could write
        text = data.decode() if isinstance(data, bytes) else data
        size = len(text.encode()) if isinstance(data, str) and size <= MAX_FILE else size
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DockerfileError("file is not UTF-8", file=name, span=Span(line, line, 1, 1)) from error
    except UnicodeEncodeError as error:
        line = error.object[: error.start].count("\n") + 1
        raise DockerfileError("file is not valid Unicode", file=name, span=Span(line, line, 1, 1)) from error
    if size > MAX_FILE:
        raise DockerfileError(f"file is larger than {MAX_FILE} bytes", file=name)
    if text.count("\n") > MAX_LINES:
        raise DockerfileError(f"file has more than {MAX_LINES} lines", file=name)
    return text.removeprefix("\ufeff")


class LineReader:
    """A cursor over a file's lines that hands out logical lines and, on demand, the heredoc bodies after them."""

    def __init__(self, text: str, name: str, escape: str) -> None:
        self._lines = text.split("\n")
        if self._lines[-1] == "":
            self._lines.pop()
        self._name = name
        self._escape = escape
        self._next = 0

    @property
    def line(self) -> int:
        """Return the number of the line read last."""
        return self._next

    def source(self, span: Span) -> str:
        """Return the text of the lines of `span`."""
        return "\n".join(line.rstrip("\r") for line in self._lines[span.start_line - 1 : span.end_line])

    def error(self, message: str, span: Span, hint: str = "") -> DockerfileError:
        """Return an error that points at `span`."""
        return DockerfileError(message, hint, file=self._name, span=span, source=self.source(span))

    def read(self) -> LogicalLine | None:
        """Return the next logical line that is not empty, or None at the end of the file."""
        comments: list[str] = []
        while self._next < len(self._lines):
            raw = self._lines[self._next].rstrip("\r")
            stripped = raw.lstrip(WHITESPACE)
            if stripped.startswith("#"):
                comments.append(stripped[1:].strip(WHITESPACE))
                self._next += 1
            elif not stripped:
                comments.clear()
                self._next += 1
            else:
                line = self._read_continued(tuple(comments))
                if line.text.strip(WHITESPACE):
                    return line
                comments.clear()
        return None

    def _read_continued(self, comments: tuple[str, ...]) -> LogicalLine:
        start = self._next + 1
        texts: list[str] = []
        pieces: list[Piece] = []
        offset = 0
        size = 0
        empty = False
        more = True
        while more and self._next < len(self._lines):
            raw = self._lines[self._next].rstrip("\r")
            self._next += 1
            stripped = raw.lstrip(WHITESPACE)
            if not stripped or (texts and stripped.startswith("#")):
                empty = empty or not stripped
                continue
            line = raw if texts else stripped
            text, more = self._split_continuation(line)
            pieces.append(Piece(offset, self._next, len(raw) - len(line) + 1))
            texts.append(text)
            offset += len(text)
            size += len(text.encode())
            if size > MAX_LINE:
                span = Span(self._next, self._next, 1, max(len(raw), 1))
                message = f"dockerfile line greater than max allowed size of {MAX_LINE}"
                raise DockerfileError(message, file=self._name, span=span)
        return LogicalLine("".join(texts), tuple(pieces), start, self._next, comments, empty)

    def _split_continuation(self, line: str) -> tuple[str, bool]:
        """Return the line without its continuation mark, and whether it had one.

        Blanks may follow the mark; a doubled escape character is none.
        """
        cut = line.rstrip(" \t")
        if not cut.endswith(self._escape) or cut[:-1].endswith(self._escape):
            return line, False
        return cut[:-1], True

    def read_heredoc(self, name: str, *, strip_tabs: bool) -> str | None:
        """Return the lines up to the one that is exactly `name`, or None when the file ends before it.

        Content is kept as it is, its carriage returns too; leading tabs are stripped when it is used.
        """
        start = self._next
        for index in range(start, len(self._lines)):
            line = self._lines[index].rstrip("\r")
            if (line.lstrip("\t") if strip_tabs else line) == name:
                self._next = index + 1
                body = self._lines[start:index]
                return "\n".join(body) + "\n" if body else ""
        return None
