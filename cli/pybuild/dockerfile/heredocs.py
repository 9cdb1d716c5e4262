"""Heredocs: the words that announce them and the bodies that follow the instruction.

heredoc = [digits] "<<" ["-"] blanks word    a word of its own; any quoting in it turns expansion off
"""

import re

import msgspec

from pybuild.dockerfile.errors import InvalidValueError, shown

_OPENING = re.compile(r"([0-9]{0,9})<<(-?)(?!<)")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
_BLANKS = re.compile(r"[ \t]*+")
_PLAIN = re.compile(r"[^\s'\"\\$]++")


class Heredoc(msgspec.Struct, frozen=True):
    """A heredoc with its body as written; `fd` is the number before `<<`, 0 for none."""

    name: str
    content: str
    expand: bool
    strip_tabs: bool
    fd: int = 0

    @property
    def body(self) -> str:
        """Return the content as it is used: without leading tabs if `<<-` asked for that."""
        if not self.strip_tabs:
            return self.content
        return _LEADING_TABS.sub("", self.content)

    @property
    def text(self) -> str:
        """Return content and end line as a shell must see them below the line with the word."""
        return "\n" + self.content + self.name


class HeredocWord(msgspec.Struct, frozen=True):
    """The announcement of a heredoc at `[start, end)` of a text."""

    name: str
    expand: bool
    strip_tabs: bool
    fd: int
    start: int
    end: int

    def with_content(self, content: str) -> Heredoc:
        """Return the heredoc with the body that was found for it."""
        return Heredoc(self.name, content, self.expand, self.strip_tabs, self.fd)


class _Word(msgspec.Struct, frozen=True):
    """An unquoted word; `open` tells that a quote in it never ends."""

    text: str
    quoted: bool
    end: int
    open: bool = False


def parse_heredoc_word(word: str) -> HeredocWord | None:
    """Return the heredoc that `word` as a whole announces, or None; raise InvalidValueError for an open quote."""
    found = _at(word, 0)
    return found if found is not None and found.end == len(word) else None


def find_heredocs(text: str, start: int = 0) -> list[HeredocWord]:
    """Return the heredocs that the words of `text[start:]` announce, in order.

    An open quote elsewhere ends the search without an error: the text may be a shell's, with rules of its own.
    """
    found: list[HeredocWord] = []
    if "<<" not in text:
        return found
    position = start
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        heredoc = _at(text, position)
        if heredoc is not None:
            found.append(heredoc)
            position = heredoc.end
            continue
        word = _read_word(text, position)
        if word.open:
            break
        position = word.end
    return found


def _at(text: str, start: int) -> HeredocWord | None:
    """Return the heredoc announced at `start`, the beginning of a word."""
    opening = _OPENING.match(text, start)
    if opening is None:
        return None
    blanks = _BLANKS.match(text, opening.end())
    word = _read_word(text, blanks.end() if blanks else opening.end())
    if "<" in text[opening.end() : word.end]:
        return None
    if word.open:
        raise InvalidValueError(f"unterminated quote in the name of a heredoc: {shown(text[start:])}")
    if not word.text:
        return None
    digits, dash = opening.groups()
    return HeredocWord(word.text, not word.quoted, bool(dash), int(digits or "0"), start, word.end)


def _read_word(text: str, start: int) -> _Word:
    """Read a word with its quotes and escapes taken out; `$` forms stay, a `${...}` is one piece."""
    parts: list[str] = []
    quoted = False
    position = start
    while position < len(text):
        plain = _PLAIN.match(text, position)
        if plain:
            parts.append(plain.group())
            position = plain.end()
            continue
        char = text[position]
        if char.isspace():
            break
        end = position + 1
        if char == "\\":
            end = min(position + 2, len(text))
            parts.append(text[position + 1 : end])
        elif char == "$":
            closing = text.find("}", position) if text.startswith("${", position) else -1
            end = closing + 1 if closing >= 0 else end
            parts.append(text[position:end])
        else:
            quoted = True
            end = _closing_quote(text, position)
            if end < 0:
                return _Word("".join(parts), True, len(text), open=True)
            inner = text[position + 1 : end - 1]
            parts.append(re.sub(r"\\([\"\\$])", r"\1", inner) if char == '"' else inner)
        position = end
    return _Word("".join(parts), quoted, position)


def _closing_quote(text: str, start: int) -> int:
    """Return the end of the quoted part that begins at `start`, -1 if it has none."""
    if text[start] == "'":
        return text.find("'", start + 1) + 1 or -1
    position = start + 1
    while position < len(text):
        if text[position] == '"':
            return position + 1
        position += 2 if text[position] == "\\" else 1
    return -1
