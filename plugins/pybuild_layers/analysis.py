"""From the tables of layers to what each did, what is seen of it in the end, and what is hidden."""

from collections.abc import Iterator
from typing import NamedTuple

from pybuild.plugin import ImageLayers, LayerEntry

ADDED, CHANGED, HIDDEN = "+", "~", "-"


class Change(NamedTuple):
    """What a layer did to a path: `bytes` are those it has there, or of HIDDEN those it hides."""

    kind: str
    path: str
    type: str
    bytes: int


class Waste(NamedTuple):
    """Files of one path that lie in layers and are not seen: `layers` have them, all 0-based."""

    path: str
    bytes: int
    layers: tuple[int, ...]


class Sums(NamedTuple):
    """What a layer did in numbers; counts are of files and links, not directories."""

    added: int
    changed: int
    hidden: int
    bytes: int


class Analysis(NamedTuple):
    """An image as a whole: `changes` by layer, `tree` what is seen in the end with the layer it comes from."""

    image: ImageLayers
    changes: tuple[tuple[Change, ...], ...]
    tree: dict[str, tuple[int, LayerEntry]]
    waste: tuple[Waste, ...]

    @property
    def stored(self) -> int:
        """Return the bytes of all files in all layers."""
        return self.seen + self.wasted

    @property
    def seen(self) -> int:
        """Return the bytes of the files that are seen in the end."""
        return sum(bytes_of(entry) for _, entry in self.tree.values())

    @property
    def wasted(self) -> int:
        """Return the bytes of files that a layer has and a later one hides."""
        return sum(one.bytes for one in self.waste)

    @property
    def efficiency(self) -> float:
        """Return the part of what is stored that is seen, 1 for an image without files."""
        return self.seen / self.stored if self.stored else 1.0

    def sums(self, layer: int) -> Sums:
        """Return what a layer did."""
        counts = {ADDED: 0, CHANGED: 0, HIDDEN: 0}
        size = 0
        for change in self.changes[layer]:
            if change.type != "d":
                counts[change.kind] += 1
                size += change.bytes if change.kind != HIDDEN else 0
        return Sums(counts[ADDED], counts[CHANGED], counts[HIDDEN], size)


class _Tree:
    """What is seen of the layers so far."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, LayerEntry]] = {}
        self._below: dict[str, set[str]] = {}
        self._wasted: dict[str, list[tuple[int, int]]] = {}

    def put(self, layer: int, entry: LayerEntry) -> tuple[int, LayerEntry] | None:
        """See an entry in the place of what was there; return that."""
        before = self.rows.get(entry.path)
        if entry.type != "d" and self._below.get(entry.path):
            for _ in self.hide(entry.path, layer, inside=True):
                continue
        if before is not None:
            self._waste(*before)
        # A layer need not name the directories above what it has
        path, above = entry.path, _parent(entry.path)
        while path and path not in self._below.setdefault(above, set()):
            self._below[above].add(path)
            path, above = above, _parent(above)
        self.rows[entry.path] = layer, entry
        return before

    def hide(self, path: str, layer: int, *, inside: bool) -> Iterator[LayerEntry]:
        """See no more of a path, or of what is `inside` it, as far as it comes from layers below; yield what it was."""
        pending = [*self._below.get(path, ())] if inside else [path]
        while pending:
            one = pending.pop()
            row = self.rows.get(one)
            pending += self._below.get(one, ())
            if row is None or row[0] == layer:
                continue
            del self.rows[one]
            self._below.get(_parent(one), set()).discard(one)
            self._waste(*row)
            yield row[1]

    def _waste(self, layer: int, entry: LayerEntry) -> None:
        if bytes_of(entry):
            self._wasted.setdefault(entry.path, []).append((layer, bytes_of(entry)))

    def waste(self) -> Iterator[Waste]:
        for path, rows in self._wasted.items():
            yield Waste(path, sum(size for _, size in rows), tuple(layer for layer, _ in rows))


def analyse(image: ImageLayers) -> Analysis:
    """Return what the layers of an image did."""
    tree = _Tree()
    changes = tuple(tuple(_apply(tree, index, layer.entries)) for index, layer in enumerate(image.layers))
    waste = sorted(tree.waste(), key=lambda one: (-one.bytes, one.path))
    return Analysis(image, changes, tree.rows, tuple(waste))


def _apply(tree: _Tree, layer: int, entries: tuple[LayerEntry, ...]) -> Iterator[Change]:
    for entry in entries:
        if entry.type == "w":
            yield from _hidden(tree.hide(entry.path, layer, inside=False))
        elif entry.opaque:
            yield from _hidden(tree.hide(entry.path, layer, inside=True))
    for entry in entries:
        if entry.type == "w" or not entry.path:
            continue
        before = tree.put(layer, entry)
        if before is None or before[0] == layer:
            yield Change(ADDED, entry.path, entry.type, bytes_of(entry))
        elif entry.type != "d" or _differs(before[1], entry):
            yield Change(CHANGED, entry.path, entry.type, bytes_of(entry))


def _hidden(entries: Iterator[LayerEntry]) -> Iterator[Change]:
    for entry in entries:
        yield Change(HIDDEN, entry.path, entry.type, bytes_of(entry))


def _differs(one: LayerEntry, other: LayerEntry) -> bool:
    return (one.type, one.mode, one.uid, one.gid) != (other.type, other.mode, other.uid, other.gid)


def bytes_of(entry: LayerEntry) -> int:
    """Return the bytes that an entry itself takes: a hard link takes none."""
    return entry.size if entry.type == "f" else 0


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


class Difference(NamedTuple):
    """How a path differs between two images: `kind` is ADDED (in the second only), HIDDEN (in the first only) or
    CHANGED; `what` names what changed.
    """

    kind: str
    path: str
    before: int
    after: int
    what: str


def differences(first: Analysis, second: Analysis) -> list[Difference]:
    """Return how what is seen of two images differs, by path; times do not count."""
    found = []
    for path in sorted({*first.tree, *second.tree}):
        one, other = first.tree.get(path), second.tree.get(path)
        if one is None and other is not None:
            found.append(Difference(ADDED, path, 0, bytes_of(other[1]), ""))
        elif one is not None and other is None:
            found.append(Difference(HIDDEN, path, bytes_of(one[1]), 0, ""))
        elif one is not None and other is not None and (what := _what(one[1], other[1])):
            found.append(Difference(CHANGED, path, bytes_of(one[1]), bytes_of(other[1]), what))
    return found


def _what(one: LayerEntry, other: LayerEntry) -> str:
    kinds = {kind: "f" if kind == "h" else kind for kind in (one.type, other.type)}
    if kinds[one.type] != kinds[other.type]:
        return "type"
    told = []
    if one.digest != other.digest or (kinds[one.type] == "l" and one.link != other.link):
        told.append("content")
    if one.mode != other.mode:
        told.append("mode")
    if (one.uid, one.gid) != (other.uid, other.gid):
        told.append("owner")
    return ", ".join(told)
