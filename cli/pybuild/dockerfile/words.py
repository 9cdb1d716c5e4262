"""Words: variables, quotes and escapes, as the builder and not a shell reads them.

word        = { plain | escape char | "'" text "'" | quoted | variable }
quoted      = '"' { text | escape ( '"' | "$" | escape ) | variable } '"'
variable    = "$" name | "${" name [ operation ] "}"
operation   = [":"] ("-" | "+" | "?") word | ("#" | "##" | "%" | "%%") pattern | ("/" | "//") pattern "/" word
name        = letters, digits and "_" | digits | one of @ * # ? - $ ! 0

Unset variables, positional and special parameters give nothing. Expansion never looks at its own result again.
"""

import re
from collections.abc import Mapping

import msgspec

from pybuild.dockerfile.errors import ExpansionError, shown
from pybuild.dockerfile.lines import WHITESPACE
from pybuild.dockerfile.patterns import parse_pattern, remove_prefix, remove_suffix, replace

MAX_VALUE = 128 << 10
"""Most bytes of an expanded value: the kernel takes no longer string in an environment."""

MAX_BODY = 8 << 20
"""Most bytes of an expanded heredoc."""

MAX_DEPTH = 32
"""Deepest nesting of `${a:-${b:-...}}`."""

MAX_WORK = 8 << 20
"""Most characters handled for one value, the parts that are thrown away included."""

SPECIAL = "@*#?-$!0"


class Expansion(msgspec.Struct, frozen=True):
    """A word's value, and which variables it asked for: those that were set and those that were not."""

    text: str
    used: frozenset[str]
    unset: frozenset[str]


class WordList(msgspec.Struct, frozen=True):
    """The words that an expanded text falls into, and which variables it asked for."""

    words: tuple[str, ...]
    used: frozenset[str]
    unset: frozenset[str]


def expand(word: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """Return the value of one word; raise ExpansionError as `examine` does."""
    return examine(word, env, escape).text


def examine(word: str, env: Mapping[str, str], escape: str = "\\") -> Expansion:
    """Expand one word, quotes and escapes taken out.

    Raises ExpansionError for a wrong form, an open quote or brace, `${v:?}` of an unset variable, and for
    values beyond MAX_VALUE or MAX_DEPTH.
    """
    expander = _Expander(word, env, escape, MAX_VALUE)
    text = _joined(expander.run(None))
    return Expansion(_bounded(text, MAX_VALUE), frozenset(expander.used), frozenset(expander.unset))


def expand_body(body: str, env: Mapping[str, str]) -> str:
    """Return the body of a heredoc with its variables replaced and its escapes taken out; quotes are text.

    The escape is a backslash, whatever the file's directive says: `\\\\` for one that stays, else a quoted name.
    """
    return examine_body(body, env).text


def examine_body(body: str, env: Mapping[str, str]) -> Expansion:
    """Expand the body of a heredoc as `expand_body` does, and tell the variables it asked for."""
    expander = _Expander(body, env, "\\", MAX_BODY, body=True)
    text = _joined(expander.run(None))
    return Expansion(_bounded(text, MAX_BODY), frozenset(expander.used), frozenset(expander.unset))


def expand_words(text: str, env: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Return the words of `text` after expansion; raise ExpansionError as `examine` does."""
    return list(examine_words(text, env, escape).words)


def examine_words(text: str, env: Mapping[str, str], escape: str = "\\") -> WordList:
    """Expand `text` and split it at blanks that are neither quoted nor escaped, those of values included."""
    expander = _Expander(text, env, escape, MAX_VALUE)
    words: list[str] = []
    current: list[str] = []
    parts = expander.run(None)
    _bounded(_joined(parts), MAX_VALUE)
    for part, quoted in parts:
        if quoted:
            current.append(part)
            continue
        for index, piece in enumerate(_SPACES.split(part)):
            if index:
                _flush(current, words)
            current.append(piece)
    _flush(current, words)
    return WordList(tuple(words), frozenset(expander.used), frozenset(expander.unset))


_SPACES = re.compile(f"[{re.escape(WHITESPACE)}]+")

_Part = tuple[str, bool]
"""Text, and whether quotes or an escape keep its blanks together."""


def _joined(parts: list[_Part]) -> str:
    return "".join([text for text, _ in parts])


def _flush(current: list[str], words: list[str]) -> None:
    if word := "".join(current):
        words.append(word)
    current.clear()


def _bounded(text: str, limit: int) -> str:
    if len(text) > limit or (len(text) * 4 > limit and len(text.encode(errors="surrogatepass")) > limit):
        raise ExpansionError(f"expansion is larger than {limit} bytes")
    return text


class _Expander:
    """One walk over a text; `run` is entered again for each word inside braces."""

    def __init__(self, text: str, env: Mapping[str, str], escape: str, limit: int, *, body: bool = False) -> None:
        self._text = text
        self._env = env
        self._escape = escape
        self._limit = limit
        self._body = body
        self._position = 0
        self._depth = 0
        self._work = max(MAX_WORK, 4 * limit)
        self._plain = {stop: re.compile(rf"[^$'\"{re.escape(escape + stop)}]++") for stop in ("", "}", "/")}
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def run(self, stop: str | None, *, raw: bool = False) -> list[_Part]:
        """Expand up to `stop`, which is taken too, or to the end; `raw` keeps the escapes, as patterns need them."""
        parts: list[_Part] = []
        size = 0
        plain = self._plain[stop or ""]
        while (char := self._peek()) and char != stop:
            match = plain.match(self._text, self._position)
            if match:
                self._position = match.end()
                part = (match.group(), False)
            elif char == "$":
                part = (self._variable(), False)
            elif char == self._escape:
                part = self._escaped(raw=raw)
            elif self._body:
                self._position += 1
                part = (char, True)
            else:
                part = (self._single_quoted() if char == "'" else self._double_quoted(), True)
            parts.append(part)
            size += len(part[0])
            self._spend(len(part[0]), size)
        if stop is not None:
            if not self._peek():
                raise ExpansionError(f"missing '{stop}' in: {shown(self._text)}")
            self._position += 1
        return parts

    def _spend(self, amount: int, size: int) -> None:
        self._work -= amount + 1
        if size > self._limit:
            raise ExpansionError(f"expansion is larger than {self._limit} bytes")
        if self._work < 0:
            raise ExpansionError(f"expansion takes too much work: {shown(self._text)}")

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _next(self) -> str:
        char = self._peek()
        self._position += 1
        return char

    def _escaped(self, *, raw: bool) -> _Part:
        self._position += 1
        char = self._next()
        return (self._escape + char if raw else char), True

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            raise ExpansionError(f"unexpected end while looking for matching single-quote: {shown(self._text)}")
        part = self._text[self._position + 1 : end]
        self._position = end + 1
        return part

    def _double_quoted(self) -> str:
        parts: list[str] = []
        size = 0
        plain = self._plain[""]
        self._position += 1
        while (char := self._peek()) != '"':
            match = plain.match(self._text, self._position)
            if match:
                part = match.group()
                self._position = match.end()
            elif not char:
                raise ExpansionError(f"unexpected end while looking for matching double-quote: {shown(self._text)}")
            elif char == "$":
                part = self._variable()
            else:
                part = self._next()
                if part == self._escape and self._peek() and self._peek() in '"$' + self._escape:
                    part = self._next()
            parts.append(part)
            size += len(part)
            self._spend(len(part), size)
        self._position += 1
        return "".join(parts)

    def _variable(self) -> str:
        self._position += 1
        if self._peek() != "{":
            name = self._name()
            return self._value(name) or "" if name else "$"
        self._position += 1
        if self._peek() in ("{", "}", ":"):
            raise ExpansionError(f"bad substitution in: {shown(self._text)}")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpansionError(f"variables are nested deeper than {MAX_DEPTH}: {shown(self._text)}")
        value = self._operation(self._name())
        self._depth -= 1
        return value

    def _name(self) -> str:
        start = self._position
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._position += 1
        elif first and first in SPECIAL:
            self._position += 1
        else:
            while (char := self._peek()).isalpha() or char.isdecimal() or char == "_":
                self._position += 1
        return self._text[start : self._position]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name)
        (self.unset if value is None else self.used).add(name)
        return value

    def _operation(self, name: str) -> str:
        operator = self._next()
        if not operator:
            raise ExpansionError(f"missing '}}' in: {shown(self._text)}")
        if not name:
            raise ExpansionError(f"bad substitution in: {shown(self._text)}")
        if operator == "}":
            return self._value(name) or ""
        colon = operator == ":"
        if colon:
            operator = self._next()
        if operator and operator in "-+?":
            word = _joined(self.run("}"))
            return self._default(name, operator, word, colon=colon)
        if operator and operator in "#%" and not colon:
            return self._trim(name, operator)
        if operator == "/" and not colon:
            return self._replace(name)
        form = ":" * colon + operator
        raise ExpansionError(f"unsupported modifier ({form}) in substitution: {shown(self._text)}")

    def _default(self, name: str, operator: str, word: str, *, colon: bool) -> str:
        value = self._value(name)
        is_set = value is not None and not (colon and value == "")
        if operator == "+":
            return word if is_set else ""
        if is_set:
            return value or ""
        if operator == "?":
            blank = "empty" if value is not None else "unset"
            raise ExpansionError(f"{name}: {word or f'is not allowed to be {blank}'}")
        return word

    def _trim(self, name: str, operator: str) -> str:
        pattern = _joined(self.run("}", raw=True))
        longest = pattern.startswith(operator)
        parsed = parse_pattern(pattern[1:] if longest else pattern, self._escape)
        remove = remove_prefix if operator == "#" else remove_suffix
        value = self._value(name) or ""
        self._spend(parsed.cost(len(value)), len(value))
        return remove(value, parsed, longest=longest)

    def _replace(self, name: str) -> str:
        every = self._peek() == "/"
        self._position += every
        pattern = parse_pattern(_joined(self.run("/", raw=True)), self._escape)
        replacement = _joined(self.run("}", raw=True))
        value = self._value(name) or ""
        # Each replacement is a step of its own, much dearer than a character looked at
        self._spend(pattern.cost(len(value)) * (8 if every else 1), len(value))
        return replace(value, pattern, replacement, every=every, limit=self._limit)
