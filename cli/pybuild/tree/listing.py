"""What a selection of files looked like, in few bytes: to tell later which of them changed.

A listing of very many files holds directories instead, each with the number, size and a digest of what is in it.
That digest is the exclusive or of the digests of its rows, so folding a listing twice is the same as folding it once,
and listings folded to different depths can be compared: the finer one is folded as far as the other.
"""

import hashlib
from collections.abc import Callable, Iterable

import msgspec

from pybuild.tree.copy import Selected
from pybuild.tree.entry import FILE, HARDLINK, Entry

MAX_ROWS = 4000
"""Most rows of a listing."""

MAX_PATH = 300
"""Longest path that is kept, in bytes; of longer ones the end."""

TREE = "t"
"""Type of a row that stands for a directory and all in it."""

SHORT = 8
"""Bytes of a digest that are kept: enough to tell two files apart, and to know one again."""


class Row(msgspec.Struct, array_like=True, frozen=True):
    """A file: `digest` of its content (of a link's target), `about` mode and owner as `0644 0:0`.

    Of a TREE `size` is that of all files in it, `count` how many they are.
    """

    path: str
    type: str
    size: int
    digest: bytes
    about: str = ""
    count: int = 1


class Listing(msgspec.Struct, array_like=True, frozen=True):
    """Rows by path; `depth` is how many names of a path they keep, 0 for all."""

    rows: dict[str, Row]
    depth: int = 0

    def encode(self) -> bytes:
        """Return it as msgpack."""
        return _encoder.encode(self)

    @staticmethod
    def decode(data: bytes) -> "Listing":
        """Return the listing in `data`; raise msgspec.DecodeError for anything else. It may come from anywhere."""
        found = _decoder.decode(data)
        if any(row.type == TREE and len(row.digest) != SHORT for row in found.rows.values()):
            raise msgspec.DecodeError("a directory without a digest")
        return found


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Listing)


def listing(selections: Iterable[Selected], digest: Callable[[bytes], bytes]) -> Listing:
    """Return what the selections hold; `digest` is asked for content whose digest the entry lacks."""
    rows: dict[str, Row] = {}
    for selected in selections:
        if selected.content is not None:
            name = f"<<{selected.name.decode(errors='replace')}"
            content = hashlib.sha256(selected.content).digest()[:SHORT]
            rows[name] = Row(name, FILE, len(selected.content), content)
            continue
        for entry in selected.entries:
            row = _row(entry, digest)
            rows[row.path] = row
    found = Listing(rows)
    depth = max((path.count("/") for path in rows), default=0)
    while len(found.rows) > MAX_ROWS and depth > 0:
        found = fold(found, depth)
        depth -= 1
    if len(found.rows) > MAX_ROWS:
        # All of them side by side in the root
        found = Listing({".": _tree(".", found.rows.values())}, -1)
    return found


def together(listings: Iterable[Listing]) -> Listing:
    """Return one listing of several; of two rows for one path the later one."""
    found = list(listings)
    coarsest = min((item.depth for item in found if item.depth), default=0)
    rows: dict[str, Row] = {}
    for item in found:
        rows.update(fold(item, coarsest).rows if coarsest else item.rows)
    return Listing(rows, coarsest)


def fold(found: Listing, depth: int) -> Listing:
    """Return a listing in which what lies deeper than `depth` names is part of a directory; -1 keeps one row alone."""
    if depth == found.depth:
        return found
    if depth < 0:
        return Listing({".": _tree(".", found.rows.values())}, -1)
    groups: dict[str, list[Row]] = {}
    for path, row in found.rows.items():
        groups.setdefault("/".join(path.split("/")[:depth]), []).append(row)
    rows: dict[str, Row] = {}
    for path, inside in groups.items():
        alone = len(inside) == 1 and inside[0].path == path
        rows[path] = inside[0] if alone else _tree(path, inside)
    return Listing(rows, depth)


def _row(entry: Entry, digest: Callable[[bytes], bytes]) -> Row:
    path = entry.path[-MAX_PATH:].decode(errors="replace") or "."
    content = b""
    if entry.type in (FILE, HARDLINK):
        content = (entry.digest or digest(entry.path))[:SHORT]
    elif entry.link:
        content = hashlib.sha256(entry.link).digest()[:SHORT]
    kind = FILE if entry.type == HARDLINK else entry.type
    return Row(path, kind, entry.size if kind == FILE else 0, content, f"{entry.mode:04o} {entry.uid}:{entry.gid}")


def _tree(path: str, rows: Iterable[Row]) -> Row:
    mixed, size, count = 0, 0, 0
    for row in rows:
        mixed ^= int.from_bytes(row.digest if row.type == TREE else _digest(row))
        size += row.size
        count += row.count
    return Row(path, TREE, size, mixed.to_bytes(SHORT), "", count)


def _digest(row: Row) -> bytes:
    text = f"{row.path}\0{row.type}\0{row.size}\0{row.about}\0".encode(errors="surrogateescape")
    return hashlib.sha256(text + row.digest).digest()[:SHORT]
