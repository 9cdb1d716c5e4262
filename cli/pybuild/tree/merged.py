"""The merged view of a stack of layers, answered from their tables alone."""

from collections.abc import Sequence
from typing import Protocol

from pybuild.tree.entry import DIR, WHITEOUT, Entry


class Tree(Protocol):
    """Anything that holds paths: a context, a stack of layers."""

    def get(self, path: bytes) -> Entry | None:
        """Return the entry at `path` (b"" is the root) without following links; None when absent."""

    def children(self, path: bytes) -> list[bytes]:
        """Return the names in directory `path`, sorted; empty for anything else."""

    def walk(self, path: bytes) -> list[Entry]:
        """Return the entry at `path` and all below it, parents first, siblings in byte order."""


def parent_of(path: bytes) -> bytes:
    """Return the directory that holds `path`; the root's is the root."""
    return path.rpartition(b"/")[0]


def join(directory: bytes, name: bytes) -> bytes:
    """Return `name` below `directory`, either of which may be the root."""
    return directory + b"/" + name if directory and name else directory or name


def ancestors(path: bytes) -> list[bytes]:
    """Return the directories above `path`, top first, without the root."""
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


class _Layer:
    """One table with its indexes, made when first asked for."""

    def __init__(self, toc: Sequence[Entry]) -> None:
        self.entries = {entry.path: entry for entry in toc}
        self._hides = any(entry.type != DIR or entry.opaque for entry in toc)
        self._children: dict[bytes, list[bytes]] | None = None

    def children(self) -> dict[bytes, list[bytes]]:
        if self._children is None:
            index: dict[bytes, list[bytes]] = {}
            listed = set(self.entries)
            for path in self.entries:
                if not path:
                    continue
                parent, _, name = path.rpartition(b"/")
                index.setdefault(parent, []).append(name)
                # A layer may leave out the directories above an entry
                while parent and parent not in listed:
                    listed.add(parent)
                    above, _, name = parent.rpartition(b"/")
                    index.setdefault(above, []).append(name)
                    parent = above
            self._children = index
        return self._children

    def hides_below(self, path: bytes) -> bool:
        """Does this layer hide what lower layers have at `path` through something above it?"""
        if not self._hides:
            return False
        for above in (b"", *ancestors(path)):
            if above == path:
                continue
            entry = self.entries.get(above)
            if entry is not None and (entry.type != DIR or entry.opaque):
                return True
        return False


class MergedTree:
    """A read-only Tree over layer tables, bottom first (OCI layer.md, "Applying Changesets")."""

    def __init__(self, tocs: Sequence[Sequence[Entry]]) -> None:
        self._layers = [_Layer(toc) for toc in tocs]

    def locate(self, path: bytes) -> tuple[int, Entry] | None:
        """Return the entry at `path` and the index of the layer it comes from."""
        implied = -1
        for index in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[index]
            entry = layer.entries.get(path)
            if entry is not None:
                if entry.type == WHITEOUT:
                    break
                if implied >= 0 and entry.type != DIR:
                    break
                return (index, entry)
            if implied < 0 and path in layer.children():
                implied = index
            if layer.hides_below(path):
                break
        if implied >= 0 or not path:
            return (max(implied, 0), Entry(path=path, type=DIR, mode=0o755))
        return None

    def described(self) -> set[bytes]:
        """Return the paths that any layer has an entry for; directories above them may have none."""
        return {path for layer in self._layers for path in layer.entries}

    def get(self, path: bytes) -> Entry | None:
        """See Tree."""
        found = self.locate(path)
        return found[1] if found else None

    def children(self, path: bytes) -> list[bytes]:
        """See Tree."""
        seen: set[bytes] = set()
        names: list[bytes] = []
        for layer in reversed(self._layers):
            entry = layer.entries.get(path)
            if entry is not None and entry.type != DIR:
                break
            for name in layer.children().get(path, ()):
                if name not in seen:
                    seen.add(name)
                    child = layer.entries.get(join(path, name))
                    if child is None or child.type != WHITEOUT:
                        names.append(name)
            if (entry is not None and entry.opaque) or layer.hides_below(path):
                break
        names.sort()
        return names

    def walk(self, path: bytes) -> list[Entry]:
        """See Tree."""
        found: list[Entry] = []
        pending = [path]
        while pending:
            current = pending.pop()
            entry = self.get(current)
            if entry is None:
                continue
            found.append(entry)
            if entry.type == DIR:
                pending.extend(join(current, name) for name in reversed(self.children(current)))
        return found


class EmptyTree:
    """The tree of `scratch`: a root and nothing in it."""

    def get(self, path: bytes) -> Entry | None:
        """See Tree."""
        return None if path else Entry(path=b"", type=DIR, mode=0o755)

    def children(self, path: bytes) -> list[bytes]:
        """See Tree."""
        return []

    def walk(self, path: bytes) -> list[Entry]:
        """See Tree."""
        entry = self.get(path)
        return [entry] if entry else []
