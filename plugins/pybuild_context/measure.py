"""From the files of a context to numbers."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pybuild.plugin import Context, Seen, Survey, Uses

SMALLEST_DUPLICATE = 4096  # bytes; below, looking costs more than it could save
_BLOCK = 1 << 20


class Sum(NamedTuple):
    """Something with a size: `name` is a path, an extension or a pattern; `files` counts regular files."""

    name: str
    bytes: int
    files: int


class LineSum(NamedTuple):
    """What a line of the ignore file leaves out."""

    line: int
    pattern: str
    bytes: int
    files: int


class Duplicate(NamedTuple):
    """Files of the same content: all but one of them could be spared."""

    bytes: int
    paths: tuple[str, ...]


class Node(NamedTuple):
    """A file or directory of the tree, the largest children first."""

    name: str
    bytes: int
    files: int
    children: "tuple[Node, ...]"


class Report(NamedTuple):
    """All that is told of a context.

    `used` is None when it is not known what the Dockerfile uses, `why` then says why. `unused` are directories and
    files of which nothing is used. `changed` are files used that no build has read as they are, None when no build is
    remembered.
    """

    root: str
    dockerfile: str
    ignore_file: str
    total: Sum
    ignored: Sum
    used: Sum | None
    why: str
    tree: Node
    extensions: tuple[Sum, ...]
    lines: tuple[LineSum, ...]
    duplicates: tuple[Duplicate, ...]
    unused: tuple[Sum, ...]
    changed: tuple[str, ...] | None
    unreadable: tuple[str, ...]
    unknown_bases: tuple[str, ...]


def measure(context: Context, survey: Survey, uses: Uses | None, why: str, *, duplicates: bool) -> Report:
    """Return the numbers; with `duplicates` files of the same size are read."""
    files = [seen for seen in survey.seen if seen.kind in ("file", "link")]
    staying = [seen for seen in files if not seen.line]
    own = _own_files(context)
    used = [seen for seen in staying if seen.used]
    root = str(context.root)
    return Report(
        root=root,
        dockerfile=str(context.dockerfile or ""),
        ignore_file=str(context.ignore_file or ""),
        total=_sum("", staying),
        ignored=_sum("", (seen for seen in files if seen.line)),
        used=_sum("", used) if uses is not None else None,
        why=why,
        tree=_tree(survey.seen),
        extensions=_extensions(staying),
        lines=_lines(context, files),
        duplicates=tuple(_duplicates(root, staying)) if duplicates else (),
        unused=tuple(_unused(survey.seen, own)) if uses is not None else (),
        changed=_changed(context, used) if used else None,
        unreadable=tuple(survey.unreadable),
        unknown_bases=uses.unknown_bases if uses is not None else (),
    )


def _own_files(context: Context) -> set[str]:
    """Return what a build reads by itself and no step has to."""
    own = {path for path in (context.dockerfile, context.ignore_file) if path is not None}
    return {os.path.relpath(path, context.root) for path in own}


def _sum(name: str, files: Iterable[Seen]) -> Sum:
    sizes = [seen.size for seen in files]
    return Sum(name, sum(sizes), len(sizes))


def _tree(seen: Sequence[Seen]) -> Node:
    """Return the tree of what is not left out; a directory comes before what is in it."""
    sizes: dict[str, list[int]] = {"": [0, 0]}
    below: dict[str, list[Node]] = {"": []}
    for one in seen:
        if one.kind == "directory":
            sizes[one.path] = [0, 0]
            below[one.path] = []
    for one in reversed(seen):
        above, _, name = one.path.rpartition("/")
        if one.kind == "directory":
            size, files = sizes[one.path]
            if one.line and not files:
                continue
            node = Node(name, size, files, _ordered(below.pop(one.path)))
        elif one.line or one.kind == "other":
            continue
        else:
            node = Node(name, one.size, 1, ())
        below[above].append(node)
        total = sizes[above]
        total[0] += node.bytes
        total[1] += node.files
    size, files = sizes[""]
    return Node("", size, files, _ordered(below[""]))


def _ordered(nodes: list[Node]) -> tuple[Node, ...]:
    return tuple(sorted(nodes, key=lambda node: (-node.bytes, node.name)))


def _extensions(files: Iterable[Seen]) -> tuple[Sum, ...]:
    sizes: dict[str, list[int]] = {}
    for seen in files:
        name = seen.path.rpartition("/")[2]
        # A dot at the beginning makes a hidden file, not an extension
        _, dot, extension = name[1:].rpartition(".")
        total = sizes.setdefault(f".{extension.lower()}" if dot else "", [0, 0])
        total[0] += seen.size
        total[1] += 1
    return tuple(
        sorted((Sum(name, *total) for name, total in sizes.items()), key=lambda one: (-one.bytes, -one.files, one.name))
    )


def _lines(context: Context, files: Iterable[Seen]) -> tuple[LineSum, ...]:
    sizes: dict[int, list[int]] = {}
    for seen in files:
        if seen.line:
            total = sizes.setdefault(seen.line, [0, 0])
            total[0] += seen.size
            total[1] += 1
    return tuple(
        LineSum(line.number, line.pattern, *sizes.get(line.number, (0, 0)))
        for line in context.ignore_lines
        if not line.negated
    )


def _duplicates(root: str, files: Iterable[Seen]) -> Iterator[Duplicate]:
    by_size: dict[int, list[Seen]] = {}
    for seen in files:
        if seen.size >= SMALLEST_DUPLICATE:
            by_size.setdefault(seen.size, []).append(seen)
    for size in sorted((size for size, group in by_size.items() if len(group) > 1), reverse=True):
        # The beginnings first: most files that are as long as another one differ there
        for beginning in _alike(root, by_size[size], SMALLEST_DUPLICATE):
            for same in _alike(root, beginning, None) if size > SMALLEST_DUPLICATE else [beginning]:
                yield Duplicate(size, tuple(sorted(seen.path for seen in same)))


def _alike(root: str, group: list[Seen], limit: int | None) -> list[list[Seen]]:
    found: dict[bytes, list[Seen]] = {}
    known: dict[tuple[int, int], bytes] = {}
    for seen in group:
        inode = seen.device, seen.inode
        if inode not in known:
            known[inode] = _digest(os.path.join(root, seen.path), limit)
        if known[inode]:
            found.setdefault(known[inode], []).append(seen)
    return [same for same in found.values() if len(same) > 1]


def _digest(path: str, limit: int | None) -> bytes:
    """Return a digest of a file or its beginning, b"" when it cannot be read."""
    state = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while data := file.read(limit or _BLOCK):
                state.update(data)
                if limit:
                    break
    except OSError:
        # The build will say so if it needs it
        return b""
    return state.digest()


def _unused(seen: Sequence[Seen], own: set[str]) -> Iterator[Sum]:
    """Yield the directories and files of which nothing is used, not those below one another, the largest first."""
    used: set[str] = {""}
    sizes: dict[str, list[int]] = {}
    for one in reversed(seen):
        above = one.path.rpartition("/")[0]
        directory = one.kind == "directory"
        if not directory and ((one.used and one.kind != "other") or one.path in own):
            used.add(one.path)
        elif directory and one.used and one.path not in sizes:
            # An empty one that is copied
            used.add(one.path)
        if one.path in used:
            used.add(above)
        size, files = sizes.get(one.path, (0, 0)) if directory else (one.size, 1)
        if one.line and not files:
            continue
        if not directory and (one.line or one.kind == "other"):
            continue
        total = sizes.setdefault(above, [0, 0])
        total[0] += size
        total[1] += files
    found = []
    for one in seen:
        if one.path in used or one.path.rpartition("/")[0] not in used:
            continue
        if one.kind == "directory":
            size, files = sizes.get(one.path, (0, 0))
            if files and one.line:
                # Left out already: only a line for what came back, by `!`, has an effect
                used.add(one.path)
            elif files:
                found.append(Sum(one.path, size, files))
        elif not one.line and one.kind != "other":
            found.append(Sum(one.path, one.size, 1))
    yield from sorted(found, key=lambda one: (-one.bytes, one.name))


def _changed(context: Context, used: Iterable[Seen]) -> tuple[str, ...] | None:
    found: list[str] = []
    for seen in used:
        if seen.kind == "file":
            before = context.built_before(seen)
            if before is None:
                return None
            if not before:
                found.append(seen.path)
    return tuple(found)
