"""Paths inside a tree: links followed within the root, wildcards as Go's filepath.Match."""

import re
from functools import lru_cache
from typing import Protocol

from pybuild.errors import PybuildError
from pybuild.tree.entry import DIR, SYMLINK, Entry
from pybuild.tree.merged import Tree, join, parent_of

MAX_LINKS = 255


class TreeError(PybuildError):
    """A path or pattern that cannot be used in this tree."""

    http_status = 400


def clean(path: bytes) -> bytes:
    """Return `path` relative to the root with `.`, `..` and doubled slashes worked out; `..` stops at the root."""
    kept: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if kept:
                kept.pop()
        elif part not in (b"", b"."):
            kept.append(part)
    return b"/".join(kept)


class Place(Protocol):
    """What links are looked up in."""

    def get(self, path: bytes) -> Entry | None:
        """Return the entry at `path` without following links; None when absent."""


def resolve(tree: Place, path: bytes, *, follow_last: bool = True) -> bytes:
    """Return `path` with every link in it followed inside the root.

    Parts that do not exist are kept as they are. Raises TreeError on a loop of links.
    """
    pending = [part for part in reversed(path.split(b"/")) if part]
    current = b""
    links = 0
    while pending:
        part = pending.pop()
        if part == b".":
            continue
        if part == b"..":
            current = parent_of(current)
            continue
        candidate = join(current, part)
        entry = tree.get(candidate)
        if entry is None or entry.type != SYMLINK or (not pending and not follow_last):
            current = candidate
            continue
        links += 1
        if links > MAX_LINKS:
            raise TreeError(f"too many symbolic links: /{path.decode(errors='replace')}")
        if entry.link.startswith(b"/"):
            current = b""
        pending.extend(piece for piece in reversed(entry.link.split(b"/")) if piece)
    return current


def has_wildcard(pattern: bytes) -> bool:
    """Does `pattern` need matching at all? Without a wildcard every backslash in it is one of the name."""
    return _WILDCARD.match(pattern) is not None


_WILDCARD = re.compile(rb"(?:[^*?\[\\]|\\.)*+[*?\[]", re.DOTALL)


def glob(tree: Tree, pattern: bytes) -> list[bytes]:
    """Return the paths that match, sorted; links to directories before the last component are followed.

    Raises TreeError for a malformed pattern.
    """
    found = [b""]
    matching = False
    parts = [part for part in pattern.split(b"/") if part not in (b"", b".")]
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if part == b"..":
            found = [parent_of(path) for path in found]
            continue
        # From the first wildcard on a backslash is an escape
        matching = matching or has_wildcard(part)
        plain = not matching or not any(char in part for char in b"*?[\\")
        tokens = [] if plain else _compile(part)
        following: list[bytes] = []
        for directory in found:
            place = resolve(tree, directory)
            entry = tree.get(place)
            if entry is None or entry.type != DIR:
                continue
            names = [part] if plain else tree.children(place)
            for name in names:
                if plain or _match(tokens, name):
                    candidate = join(place, name)
                    if not last or tree.get(candidate) is not None:
                        following.append(candidate)
        found = following
    return sorted(set(found))


def matches(pattern: bytes, name: bytes) -> bool:
    """Does one component of a pattern match a name? Raises TreeError for a malformed one."""
    return _match(_compile(pattern), name) if has_wildcard(pattern) else pattern == name


_Token = tuple[str, object]


@lru_cache(256)
def _compile(pattern: bytes) -> list[_Token]:
    """Return tokens of one component: literal character, any, star, or (negated, ranges)."""
    text = pattern.decode(errors="surrogateescape")
    tokens: list[_Token] = []
    position = 0

    def char(at: int) -> tuple[str, int]:
        if text[at : at + 1] == "\\":
            at += 1
        if at >= len(text):
            raise TreeError(f"malformed pattern: {text}")
        return text[at], at + 1

    while position < len(text):
        current = text[position]
        if current == "*":
            if not tokens or tokens[-1][0] != "star":
                tokens.append(("star", None))
            position += 1
        elif current == "?":
            tokens.append(("any", None))
            position += 1
        elif current == "[":
            position += 1
            negated = text[position : position + 1] == "^"
            position += negated
            ranges: list[tuple[str, str]] = []
            while not (text[position : position + 1] == "]" and ranges):
                if text[position : position + 1] in ("-", "]", ""):
                    raise TreeError(f"malformed pattern: {text}")
                low, position = char(position)
                high = low
                if text[position : position + 1] == "-":
                    if text[position + 1 : position + 2] in ("-", "]", ""):
                        raise TreeError(f"malformed pattern: {text}")
                    high, position = char(position + 1)
                ranges.append((low, high))
            position += 1
            tokens.append(("set", (negated, ranges)))
        else:
            literal, position = char(position)
            tokens.append(("char", literal))
    return tokens


def _fits(token: _Token, char: str) -> bool:
    kind, value = token
    if kind == "char":
        return char == value
    if kind == "any":
        return True
    assert isinstance(value, tuple)
    negated, ranges = value
    return bool(any(low <= char <= high for low, high in ranges) != negated)


def _match(tokens: list[_Token], name: bytes) -> bool:
    """Match in O(len(tokens) * len(name)): only the last star is ever tried again."""
    text = name.decode(errors="surrogateescape")
    at = token_at = 0
    star_token = star_text = -1
    while at < len(text):
        if token_at < len(tokens) and tokens[token_at][0] == "star":
            star_token, star_text = token_at, at
            token_at += 1
        elif token_at < len(tokens) and _fits(tokens[token_at], text[at]):
            token_at += 1
            at += 1
        elif star_token >= 0:
            star_text += 1
            token_at, at = star_token + 1, star_text
        else:
            return False
    return all(token[0] == "star" for token in tokens[token_at:])
