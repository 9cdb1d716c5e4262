"""Which paths of a context a build reads, decided on names alone."""

import re
from collections.abc import Iterable, Sequence

import msgspec

from pybuild.api.events import Read
from pybuild.context.errors import IgnoreError
from pybuild.context.ignore import DirState, IgnoreMatcher
from pybuild.tree.paths import TreeError, clean, has_wildcard, matches


class _Source(msgspec.Struct, frozen=True):
    """A pattern, a component each, and what is taken and left out of what it matches."""

    parts: tuple[bytes, ...]
    include: IgnoreMatcher | None
    exclude: IgnoreMatcher | None


class Footprint:
    """What `reads` name. None is everything, as of a build that never came to say what it reads."""

    def __init__(self, reads: Iterable[Read] | None) -> None:
        self._sources = [_Source((), None, None)] if reads is None else []
        for read in dict.fromkeys(reads or ()):
            try:
                self._sources.append(_source(read))
            except (IgnoreError, TreeError):
                # The step fails for it, and matches nothing
                continue

    def uses(self, path: bytes, *, directory: bool, plain: bool = False) -> bool:
        """May the result change with this path, which is one of a directory or not?

        A `plain` one is that of a file and no link: it leads nowhere else.
        """
        parts = _parts(path)
        return any(_uses(source, parts, directory, plain) for source in self._sources)

    def within(self, path: bytes) -> "Footprint":
        """Return what is used in this directory: the same for all that is below it, and quicker to ask."""
        parts = _parts(path)
        narrowed = Footprint(())
        narrowed._sources = [source for source in self._sources if _uses(source, parts, True, False)]
        return narrowed

    def __bool__(self) -> bool:
        return bool(self._sources)

    def covers(self, path: bytes) -> bool:
        """Is all used that is in this directory, whatever its names?"""
        parts = _parts(path)
        return any(
            source.include is None
            and source.exclude is None
            and len(source.parts) <= len(parts)
            and all(matches(pattern, name) for pattern, name in zip(source.parts, parts))
            for source in self._sources
        )


def _source(read: Read) -> _Source:
    top, below = read.source, ""
    if read.parents:
        top, pivot, below = read.source.partition("/./")
        if not pivot:
            top, below = "", read.source
    exclude = IgnoreMatcher(read.excludes) if read.excludes else None
    inner = clean(below.encode(errors="surrogateescape")).decode(errors="surrogateescape")
    parts = _with_escapes(_parts(clean(top.encode(errors="surrogateescape"))))
    for part in parts:
        matches(part, b"")
    return _Source(parts, IgnoreMatcher([inner]) if inner else None, exclude)


def _with_escapes(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return parts that say the same each on its own: from the first wildcard on a backslash is an escape."""
    first = next((at for at, part in enumerate(parts) if has_wildcard(part)), len(parts))
    later = (part if has_wildcard(part) else re.sub(rb"\\(.)", rb"[\\\1]", part) for part in parts[first:])
    return (*parts[:first], *later)


def _parts(path: bytes) -> tuple[bytes, ...]:
    return tuple(path.split(b"/")) if path else ()


def _uses(source: _Source, parts: Sequence[bytes], directory: bool, plain: bool) -> bool:
    if plain and len(parts) < len(source.parts):
        return False
    # A shorter path is a directory, or a link, on the way to what is named
    if not all(matches(pattern, name) for pattern, name in zip(source.parts, parts)):
        return False
    rest = [part.decode(errors="surrogateescape") for part in parts[len(source.parts) :]]
    if not rest:
        return True
    if source.exclude is not None:
        left_out, below = _decide(source.exclude, rest)
        if left_out and not (directory and below.may_reinclude()):
            return False
    if source.include is None:
        return True
    taken, below = _decide(source.include, rest)
    return taken or (directory and below.may_match())


def _decide(matcher: IgnoreMatcher, names: Sequence[str]) -> tuple[bool, DirState]:
    """Return whether the patterns match, and what they say of the path as a directory."""
    state = matcher.root
    for name in names[:-1]:
        state = state.enter(name)
    return state.excludes(names[-1]), state.enter(names[-1])
