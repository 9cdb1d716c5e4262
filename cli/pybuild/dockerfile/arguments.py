"""How the arguments of an instruction fall apart: a table of splitters by the instruction's name."""

from collections.abc import Callable, Iterable

import msgspec

from pybuild.dockerfile.errors import shown
from pybuild.dockerfile.heredocs import HeredocWord
from pybuild.dockerfile.jsonform import is_json_list, parse_json_list
from pybuild.dockerfile.lines import BLANKS, WHITESPACE


class Token(msgspec.Struct, frozen=True):
    """An argument and its place in the logical line; of a JSON list every item has the place of the list."""

    text: str
    start: int
    end: int
    heredoc: int | None = None
    """Which heredoc of the instruction this word announces."""


class BadArgumentsError(Exception):
    """Arguments that do not even fall apart; `named` puts the instruction's name before the message."""

    def __init__(self, message: str, start: int, end: int, hint: str = "", *, named: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.start = start
        self.end = end
        self.hint = hint
        self.named = named


def skip_blanks(text: str, start: int, end: int) -> int:
    """Return where `text[start:end]` has its first character that is not white space."""
    while start < end and text[start] in WHITESPACE:
        start += 1
    return start


def word_at(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the bounds of the first word of `text[start:end]`, empty at its end."""
    start = skip_blanks(text, start, end)
    stop = start
    while stop < end and text[stop] not in BLANKS:
        stop += 1
    return start, stop


def _whole(text: str, start: int, end: int, escape: str) -> list[Token]:
    """All is one argument."""
    return [Token(text[start:end], start, end)] if start < end else []


def _blank_separated(text: str, start: int, end: int, escape: str) -> list[Token]:
    """Words between blanks, whatever quotes say."""
    tokens: list[Token] = []
    while True:
        start, stop = word_at(text, start, end)
        if start == stop:
            return tokens
        tokens.append(Token(text[start:stop], start, stop))
        start = stop


def split_around(text: str, start: int, end: int, words: Iterable[HeredocWord]) -> list[Token]:
    """Words between blanks, the words that announce heredocs whole."""
    tokens: list[Token] = []
    for index, word in enumerate(words):
        tokens += _blank_separated(text, start, word.start, "")
        tokens.append(Token(text[word.start : word.end], word.start, word.end, index))
        start = word.end
    return tokens + _blank_separated(text, start, end, "")


def split_words(text: str, start: int, end: int, escape: str) -> list[Token]:
    """Words between blanks that are not quoted or escaped; an open quote goes to the end."""
    tokens: list[Token] = []
    position = start
    while True:
        position = skip_blanks(text, position, end)
        if position >= end:
            return tokens
        begin = position
        quote = ""
        while position < end and (quote or text[position] not in WHITESPACE):
            char = text[position]
            if char == escape and quote != "'":
                position += 1
            elif quote and char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            position += 1
        position = min(position, end)
        tokens.append(Token(text[begin:position], begin, position))


def _pairs(text: str, start: int, end: int, escape: str) -> list[Token]:
    """`name=value ...`, or `name rest` when the first word has no `=`."""
    words = split_words(text, start, end, escape)
    if not words:
        return []
    if "=" not in words[0].text:
        name, name_end = word_at(text, start, end)
        value = skip_blanks(text, name_end, end)
        if value >= end:
            raise BadArgumentsError("must have two arguments", start, end, "write `name=value`", named=True)
        return [Token(text[name:name_end], name, name_end), Token(text[value:end], value, end), Token("", end, end)]
    tokens: list[Token] = []
    for word in words:
        name_text, equals, value_text = word.text.partition("=")
        if not equals:
            message = f"can't find = in {shown(word.text)!r}, must be of the form: name=value"
            raise BadArgumentsError(message, word.start, word.end, "quote a value that has blanks")
        middle = word.start + len(name_text)
        tokens += [
            Token(name_text, word.start, middle),
            Token(value_text, middle + 1, word.end),
            Token("=", middle, middle + 1),
        ]
    return tokens


def _health(text: str, start: int, end: int, escape: str) -> list[Token]:
    """A word, and the rest."""
    if start >= end:
        return []
    word, word_end = word_at(text, start, end)
    rest = skip_blanks(text, word_end, end)
    tokens = [Token(text[word:word_end], word, word_end)]
    return [*tokens, Token(text[rest:end], rest, end)] if rest < end else tokens


Splitter = Callable[[str, int, int, str], list[Token]]

ARGUMENTS: dict[str, Splitter] = {
    "add": _blank_separated,
    "arg": split_words,
    "cmd": _whole,
    "copy": _blank_separated,
    "entrypoint": _whole,
    "env": _pairs,
    "expose": _blank_separated,
    "from": _blank_separated,
    "healthcheck": _health,
    "label": _pairs,
    "maintainer": _whole,
    "onbuild": _whole,
    "run": _whole,
    "shell": _whole,
    "stopsignal": _whole,
    "user": _whole,
    "volume": _blank_separated,
    "workdir": _whole,
}
"""How the arguments of each instruction fall apart when they are no JSON list."""

_JSON_TAKERS = frozenset({"add", "cmd", "copy", "entrypoint", "run", "shell", "volume"})
"""Instructions whose arguments may be a JSON list; HEALTHCHECK takes one after its first word."""


def split_arguments(name: str, text: str, start: int, end: int, escape: str) -> tuple[list[Token], bool]:
    """Return the arguments in `text[start:end]`, and whether they are (or end with) a JSON list.

    Raises BadArgumentsError.
    """
    if name in _JSON_TAKERS:
        items = _json_tokens(text, start, end)
        if items is not None:
            return items, True
    tokens = ARGUMENTS[name](text, start, end, escape)
    if name == "healthcheck" and len(tokens) == 2:
        items = _json_tokens(text, tokens[1].start, end)
        if items is not None:
            return [tokens[0], *items], True
    return tokens, False


def _json_tokens(text: str, start: int, end: int) -> list[Token] | None:
    if not text.startswith("[", start):
        return None
    items = parse_json_list(text[start:end])
    if items is None and is_json_list(text[start:end]):
        raise BadArgumentsError(
            "when using JSON array syntax, arrays must be comprised of strings only", start, end, "put each in quotes"
        )
    return None if items is None else [Token(item, start, end) for item in items]
