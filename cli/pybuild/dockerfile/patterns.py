"""The wildcard patterns of `${v#p}`, `${v%p}` and `${v/p/r}`.

`*` is any text, `?` any character; the escape character makes `*`, `?`, itself, `}`, `/` and `$` plain. Matching
looks for the pieces between the stars one after the other, so no pattern makes it slow.
"""

import re

import msgspec

from pybuild.dockerfile.errors import ExpansionError, shown

MAX_PATTERN = 1024
"""Most characters of a pattern that has a `?`; those without are found faster than they are compared."""

_ESCAPABLE = "*?}/$"


class Pattern(msgspec.Struct, frozen=True):
    """A pattern as the pieces between its stars; in a piece None stands for `?`."""

    pieces: tuple[tuple[str | None, ...], ...]

    def cost(self, size: int) -> int:
        """Return about how many characters are looked at to match a text of `size`."""
        return size * (1 + max((len(piece) for piece in self.pieces if None in piece), default=0) // 16)

    def reversed(self) -> "Pattern":
        """Return the pattern that matches every matched text read backwards."""
        return Pattern(tuple(piece[::-1] for piece in self.pieces[::-1]))


def parse_pattern(text: str, escape: str = "\\") -> Pattern:
    """Return the pattern; raise ExpansionError for an escape before a character that needs none."""
    pieces: list[tuple[str | None, ...]] = []
    piece: list[str | None] = []
    for unit in _units(text, escape):
        if unit == "*":
            pieces.append(tuple(piece))
            piece = []
        elif unit == "?":
            piece.append(None)
        elif not unit.startswith(escape):
            piece.append(unit)
        elif len(unit) == 2 and unit[1] in _ESCAPABLE + escape:
            piece.append(unit[1])
        else:
            raise ExpansionError(f"invalid escape in pattern: {shown(unit)}")
    pieces.append(tuple(piece))
    pattern = Pattern(tuple(pieces))
    if len(text) > MAX_PATTERN and any(None in piece for piece in pattern.pieces):
        raise ExpansionError(f"pattern is longer than {MAX_PATTERN} characters: {shown(text)}")
    return pattern


def _units(text: str, escape: str) -> list[str]:
    """Return the characters of a pattern, an escaped one together with its escape."""
    return re.findall(rf"(?s){re.escape(escape)}.|.", text)


def remove_prefix(value: str, pattern: Pattern, *, longest: bool) -> str:
    """Return `value` without the shortest or longest beginning that matches."""
    end = _match(_compile(pattern), value, 0, anchored=True, longest=longest)
    return value if end is None else value[end[1] :]


def remove_suffix(value: str, pattern: Pattern, *, longest: bool) -> str:
    """Return `value` without the shortest or longest end that matches."""
    return remove_prefix(value[::-1], pattern.reversed(), longest=longest)[::-1]


def replace(value: str, pattern: Pattern, replacement: str, *, every: bool, limit: int) -> str:
    """Return `value` with the first, or every, longest match replaced.

    Raises ExpansionError when the result outgrows `limit`, before it is made.
    """
    finders = _compile(pattern)
    parts: list[str] = []
    size = copied = search = 0
    last_end = -1
    while search <= len(value):
        found = _match(finders, value, search, anchored=False, longest=True)
        if found is None:
            break
        start, end = found
        search = end if end > start else end + 1
        if start == end == last_end:
            # Nothing, right behind a match, is no match of its own
            continue
        parts += [value[copied:start], replacement]
        size += start - copied + len(replacement)
        if size > limit:
            raise ExpansionError(f"expansion is larger than {limit} bytes")
        copied = last_end = end
        if not every:
            break
    return "".join(parts) + value[copied:]


_Finder = str | re.Pattern[str]


def _compile(pattern: Pattern) -> list[_Finder]:
    """Return what finds each piece: plain text wherever possible."""
    finders: list[_Finder] = []
    for piece in pattern.pieces:
        if None in piece:
            finders.append(re.compile("".join("." if char is None else re.escape(char) for char in piece), re.DOTALL))
        else:
            finders.append("".join(char for char in piece if char is not None))
    return finders


def _match(finders: list[_Finder], value: str, start: int, *, anchored: bool, longest: bool) -> tuple[int, int] | None:
    """Return the span of the leftmost match at or after `start`, or exactly at it when anchored."""
    first = _at(finders[0], value, start) if anchored else _first(finders[0], value, start)
    if first is None or len(finders) == 1:
        return first
    begin, end = first
    for finder in finders[1:-1]:
        found = _first(finder, value, end)
        if found is None:
            return None
        end = found[1]
    found = (_last if longest else _first)(finders[-1], value, end)
    return None if found is None else (begin, found[1])


def _at(finder: _Finder, value: str, start: int) -> tuple[int, int] | None:
    if isinstance(finder, str):
        return (start, start + len(finder)) if value.startswith(finder, start) else None
    match = finder.match(value, start)
    return match.span() if match else None


def _first(finder: _Finder, value: str, start: int) -> tuple[int, int] | None:
    if isinstance(finder, str):
        found = value.find(finder, start)
        return None if found < 0 else (found, found + len(finder))
    match = finder.search(value, start)
    return match.span() if match else None


def _last(finder: _Finder, value: str, start: int) -> tuple[int, int] | None:
    if isinstance(finder, str):
        found = value.rfind(finder, start)
        return None if found < 0 else (found, found + len(finder))
    last = None
    for match in re.compile(f"(?=({finder.pattern}))", re.DOTALL).finditer(value, start):
        last = match.span(1)
    return last
