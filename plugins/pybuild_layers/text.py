"""Layers, waste, trees and differences for people at a terminal."""

from collections.abc import Iterator, Sequence

from pybuild.plugin import bar, human_bytes, one_line, table
from pybuild_layers.analysis import ADDED, Analysis, Change, Difference, bytes_of

BAR = 12  # columns
_SIGNS = {"d": "/", "l": "@", "p": "|"}


def overview(analysis: Analysis, top: int) -> Iterator[str]:
    """Yield the layers, the lowest first, and what is wasted most."""
    image = analysis.image
    name = image.names[0] if image.names else image.id[:19]
    layers = "1 layer" if len(image.layers) == 1 else f"{len(image.layers)} layers"
    yield f"{one_line(name)}: {layers}, {_size(analysis.stored)} of files"
    yield f"  efficiency {analysis.efficiency:.1%}, {_size(analysis.wasted)} hidden by later layers"
    yield ""
    rows = []
    for index, layer in enumerate(image.layers):
        sums = analysis.sums(index)
        by = " ".join(layer.created_by.split())
        share = sums.bytes / analysis.stored if analysis.stored else 0.0
        counts = [str(count) if count else "" for count in (sums.added, sums.changed, sums.hidden)]
        rows.append([str(index + 1), _size(sums.bytes), bar(share, BAR), *counts, by[:60]])
    yield from table(["#", "FILES", "", "ADDED", "CHANGED", "HIDDEN", "CREATED BY"], rows)
    if analysis.waste and top:
        yield ""
        yield "Hidden by later layers"
        for waste in analysis.waste[:top]:
            layers = ", ".join(str(layer + 1) for layer in waste.layers)
            yield f"  {_size(waste.bytes):>8}  {one_line(waste.path)}  (in {layers})"
        if len(analysis.waste) > top:
            yield f"  and {len(analysis.waste) - top:,} more"


def layer(changes: Sequence[Change]) -> Iterator[str]:
    """Yield what a layer did, path by path."""
    for change in sorted(changes, key=lambda change: change.path):
        size = _size(change.bytes) if change.type == "f" else ""
        yield f"{change.kind} {size:>8}  {one_line(change.path)}{_SIGNS.get(change.type, '')}"


def tree(analysis: Analysis, top: int) -> Iterator[str]:
    """Yield what is seen of the image, the largest first, with the layers it comes from; `top` of each directory."""
    sizes: dict[str, int] = {}
    layers: dict[str, set[int]] = {}
    below: dict[str, list[str]] = {}
    for path, (index, entry) in analysis.tree.items():
        below.setdefault(path.rpartition("/")[0], []).append(path)
        at = path
        while True:
            sizes[at] = sizes.get(at, 0) + bytes_of(entry)
            if entry.type != "d":
                layers.setdefault(at, set()).add(index + 1)
            if not at:
                break
            at = at.rpartition("/")[0]
    whole = sizes.get("", 0) or 1
    pending = [("", -1)]
    while pending:
        path, depth = pending.pop()
        if depth >= 0:
            name = path.rpartition("/")[2] + ("/" if path in below else "")
            origin = ", ".join(map(str, sorted(layers.get(path, ()))))
            share = bar(sizes[path] / whole, BAR)
            yield f"{share} {_size(sizes[path]):>8}  {'  ' * depth}{one_line(name)}{f'  ({origin})' if origin else ''}"
        children = sorted(below.get(path, ()), key=lambda child: (-sizes[child], child))
        shown = [child for child in children[:top] if sizes[child]]
        pending += [(child, depth + 1) for child in reversed(shown)]


def difference(first: Analysis, second: Analysis, found: Sequence[Difference], top: int) -> Iterator[str]:
    """Yield how two images differ: shared layers, then the paths, `top` of them."""
    ours, theirs = ([layer.digest for layer in one.image.layers] for one in (first, second))
    shared = next(
        (index for index, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs))
    )
    yield f"{shared} layers shared, {len(ours) - shared} and {len(theirs) - shared} of their own"
    grown = second.seen - first.seen
    yield f"files: {_size(first.seen)} and {_size(second.seen)} ({'+' if grown >= 0 else '-'}{_size(abs(grown))})"
    yield f"{len(found):,} path{'' if len(found) == 1 else 's'} differ{'s' if len(found) == 1 else ''}"
    largest = sorted(found, key=lambda one: (-abs(one.after - one.before), one.path))
    for one in largest[:top]:
        size = _size(one.after if one.kind == ADDED else one.before)
        change = f"{size} -> {_size(one.after)}" if one.before != one.after and one.what else size
        yield f"{one.kind} {change:>20}  {one_line(one.path)}{f'  ({one.what})' if one.what else ''}"
    if len(found) > top:
        yield f"and {len(found) - top:,} more"


def _size(size: int) -> str:
    return human_bytes(size, 3)
