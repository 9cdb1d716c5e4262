"""A treemap as SVG: the area of a rectangle is the size of a file or directory.

The layout is squarified (Bruls, Huizing, van Wijk 2000): rows of rectangles as near to squares as they get.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from pybuild.plugin import human_bytes
from pybuild_context.measure import Node

WIDTH, HEIGHT, BAR = 1200.0, 800.0, 18.0  # pixels; a directory's name stands in its bar
MOST = 4000
"""Rectangles of a picture at most; what would be smaller is left to the directory it is in."""


class Box(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


def picture(tree: Node, title: str) -> str:
    """Return the treemap of a tree."""
    drawn = "".join(_draw(tree, Box(0, 0, WIDTH, HEIGHT), _shown(title), 0))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>\n'
    )


def _draw(node: Node, box: Box, path: str, depth: int) -> Iterator[str]:
    hue = 210 + depth * 47
    kind = f"hsl({hue % 360},45%,{88 if node.children else 78}%)"
    name = _shown(node.name) if depth else path
    yield (
        f"<g><title>{escape(path)}: {human_bytes(node.bytes, 3)}, {node.files} files</title>"
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" fill="{kind}" '
        f'stroke="#fff"/>'
    )
    letters = int((box.width - 8) / 6.5)
    if letters > 3 and box.height > 13:
        label = name if len(name) <= letters else name[: letters - 1] + "…"
        yield f'<text x="{box.x + 4:.1f}" y="{box.y + 13:.1f}">{escape(label)}</text>'
    yield "</g>"
    inner = Box(box.x + 2, box.y + BAR, box.width - 4, box.height - BAR - 2)
    if not node.children or inner.width < 8 or inner.height < 8:
        return
    children = [child for child in node.children[: MOST >> min(depth * 2, 10)] if child.bytes]
    for child, place in zip(children, squarify([child.bytes for child in children], inner)):
        if place.width >= 1.5 and place.height >= 1.5:
            yield from _draw(child, place, f"{path}/{_shown(child.name)}", depth + 1)


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Return a rectangle for each size (the largest first, none 0) that together fill `box`."""
    total = sum(sizes)
    if not total:
        return []
    scale = box.width * box.height / total
    areas = [size * scale for size in sizes]
    places: list[Box] = []
    at = 0
    while at < len(areas):
        side = min(box.width, box.height)
        end = at + 1
        row = areas[at]
        while end < len(areas) and _worst(areas[at], areas[end], row + areas[end], side) <= _worst(
            areas[at], areas[end - 1], row, side
        ):
            row += areas[end]
            end += 1
        box = _place(areas[at:end], row, box, places)
        at = end
    return places


def _worst(largest: float, smallest: float, row: float, side: float) -> float:
    """Return the worst ratio of sides in a row of rectangles along `side`."""
    if not (side and row and smallest):
        return float("inf")
    return max(side * side * largest / (row * row), row * row / (side * side * smallest))


def _place(areas: Sequence[float], row: float, box: Box, places: list[Box]) -> Box:
    """Put a row along the shorter side and return what is left."""
    if box.width >= box.height:
        wide = row / box.height if box.height else 0
        y = box.y
        for area in areas:
            places.append(Box(box.x, y, wide, area / wide if wide else 0))
            y += area / wide if wide else 0
        return Box(box.x + wide, box.y, max(0.0, box.width - wide), box.height)
    high = row / box.width if box.width else 0
    x = box.x
    for area in areas:
        places.append(Box(x, box.y, area / high if high else 0, high))
        x += area / high if high else 0
    return Box(box.x, box.y + high, box.width, max(0.0, box.height - high))


def _shown(name: str) -> str:
    return "".join(char if char.isprintable() else "�" for char in name)
