"""Which part of a directory a copy takes: patterns that put in, patterns that leave out.

The patterns themselves belong to whoever reads ignore files; here they are only asked, directory by directory.
"""

from typing import Protocol

import msgspec

from pybuild.tree.entry import DIR, Entry
from pybuild.tree.merged import Tree, join


class Matching(Protocol):
    """What a list of patterns says of one directory and the names in it."""

    excluded: bool
    """Do the patterns match the directory itself?"""

    def excludes(self, name: str) -> bool:
        """Do they match `name` in this directory?"""

    def enter(self, name: str) -> "Matching":
        """Return what they say of directory `name` in this one."""

    def may_match(self) -> bool:
        """May they match something below by itself? If not, all shares the fate of the directory."""

    def may_reinclude(self) -> bool:
        """May something below this directory, which is matched, not be matched?"""


class Choice(msgspec.Struct, frozen=True):
    """What a copy takes of a directory, told by the states of its root; None is everything, or nothing left out."""

    include: Matching | None = None
    exclude: Matching | None = None

    def leaves_out(self, name: bytes) -> bool:
        """Is `name`, which a wildcard found, left out?"""
        return self.exclude is not None and self.exclude.excludes(_text(name))


class _Ahead(msgspec.Struct, frozen=True):
    """A path still to be looked at, with the states of the directory that holds it."""

    path: bytes
    name: bytes
    depth: int
    include: Matching | None
    exclude: Matching | None


def walk_chosen(tree: Tree, root: bytes, choice: Choice) -> tuple[tuple[Entry, ...], frozenset[bytes]]:
    """Return directory `root` and what of its content is chosen, parents first, siblings in byte order.

    Second come the paths of directories that were not chosen themselves and only hold what was.
    """
    top = tree.get(root)
    assert top is not None
    found = [top]
    holders: set[bytes] = set()
    # For each level above: its directory as long as it is neither chosen nor needed, else None
    above: list[Entry | None] = []
    pending = _inside(tree, root, 0, choice.include, choice.exclude)
    while pending:
        ahead = pending.pop()
        del above[ahead.depth :]
        entry = tree.get(ahead.path)
        if entry is None:
            continue
        include, exclude = ahead.include, ahead.exclude
        name = _text(ahead.name)
        taken = (include is None or include.excludes(name)) and not (exclude is not None and exclude.excludes(name))
        if taken:
            for level, holder in enumerate(above):
                if holder is not None:
                    found.append(holder)
                    holders.add(holder.path)
                    above[level] = None
            found.append(entry)
        if entry.type == DIR:
            above.append(None if taken else entry)
            include = include.enter(name) if include is not None else None
            exclude = exclude.enter(name) if exclude is not None else None
            if not _is_hopeless(include, exclude):
                pending += _inside(tree, ahead.path, ahead.depth + 1, include, exclude)
    return tuple(found), frozenset(holders)


def _is_hopeless(include: Matching | None, exclude: Matching | None) -> bool:
    """Can nothing in a directory be chosen, so that it need not be listed?"""
    if include is not None and not include.excluded and not include.may_match():
        return True
    return exclude is not None and exclude.excluded and not exclude.may_reinclude()


def _inside(tree: Tree, path: bytes, depth: int, include: Matching | None, exclude: Matching | None) -> list[_Ahead]:
    return [_Ahead(join(path, name), name, depth, include, exclude) for name in reversed(tree.children(path))]


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
