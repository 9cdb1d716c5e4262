"""A browser for the layers of an image: what is shown as values and keys, without a terminal."""

from collections.abc import Sequence
from typing import NamedTuple

from pybuild.plugin import human_bytes, one_line
from pybuild_layers.analysis import ADDED, CHANGED, HIDDEN, Analysis, Change, bytes_of

HELP = "Tab: layer   Up/Down: move   Enter: open or close   a: all or this layer's   q: end"

PLAIN, TITLE, CURSOR, NEW, MENDED, GONE = range(6)
"""How a line looks."""

_LOOKS = {ADDED: NEW, CHANGED: MENDED, HIDDEN: GONE}


class Line(NamedTuple):
    """A line of the screen: `look` is one of the looks."""

    text: str
    look: int


class _Row(NamedTuple):
    path: str
    depth: int
    bytes: int
    kind: str
    is_directory: bool


class Browser:
    """What is looked at: a layer, the directories that are open, and the row of the cursor."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self.layer = 0
        self.all = False
        self._cursor = 0
        self._open: set[str] = {""}
        self._rows = self._listed()

    def press(self, key: str, height: int) -> bool:
        """Take a key by its name; return False when that was the end."""
        layers = len(self._analysis.image.layers)
        match key:
            case "q" | "escape":
                return False
            case "tab" | "right" if layers:
                self._turn_to((self.layer + 1) % layers)
            case "backtab" | "left" if layers:
                self._turn_to((self.layer - 1) % layers)
            case "a":
                self.all = not self.all
                self._turn_to(self.layer)
            case "up" | "down" | "pageup" | "pagedown":
                step = {"up": -1, "down": 1, "pageup": -max(1, height - 5), "pagedown": max(1, height - 5)}[key]
                self._cursor = max(0, min(len(self._rows) - 1, self._cursor + step))
            case "enter" if self._rows and self._rows[self._cursor].is_directory:
                self._open ^= {self._rows[self._cursor].path}
                self._rows = self._listed()
            case _:
                pass
        return True

    def lines(self, height: int, width: int) -> list[Line]:
        """Return what stands on a screen of that size, the top first."""
        image = self._analysis.image
        name = image.names[0] if image.names else image.id[:19]
        seen = f"{self._analysis.efficiency:.1%} of {human_bytes(self._analysis.stored, 3)} seen"
        found = [Line(f"{one_line(name)}: {seen}", TITLE)]
        if image.layers:
            sums, layer = self._analysis.sums(self.layer), image.layers[self.layer]
            what = f"+{sums.added} ~{sums.changed} -{sums.hidden} {human_bytes(sums.bytes, 3)}"
            by = one_line(" ".join(layer.created_by.split()))
            found.append(Line(f"layer {self.layer + 1} of {len(image.layers)}  {what}  {by}", TITLE))
        room = max(1, height - len(found) - 1)
        first = max(0, min(self._cursor - room // 2, len(self._rows) - room))
        for index, row in enumerate(self._rows[first : first + room], first):
            found.append(Line(_text(row, row.path in self._open), CURSOR if index == self._cursor else _look(row)))
        found += [Line("", PLAIN)] * (height - 1 - len(found))
        return [Line(line.text[:width], line.look) for line in [*found[: height - 1], Line(HELP, TITLE)]]

    def _turn_to(self, layer: int) -> None:
        self.layer, self._cursor = layer, 0
        self._rows = self._listed()

    def _changes(self) -> list[Change]:
        if not self._analysis.image.layers:
            return []
        own = {change.path: change for change in self._analysis.changes[self.layer]}
        if not self.all:
            return [*own.values()]
        rest = (
            Change(" ", path, entry.type, bytes_of(entry))
            for path, (index, entry) in self._analysis.tree.items()
            if path not in own and index <= self.layer
        )
        return [*own.values(), *rest]

    def _listed(self) -> list[_Row]:
        """Return the rows of what is open, the largest of a directory first."""
        sizes: dict[str, int] = {}
        below: dict[str, set[str]] = {}
        changes = {change.path: change for change in self._changes()}
        for path, change in changes.items():
            at = path
            while at:
                sizes[at] = sizes.get(at, 0) + change.bytes
                above = at.rpartition("/")[0]
                below.setdefault(above, set()).add(at)
                at = above
        rows: list[_Row] = []
        pending = [(path, 0) for path in _ordered(below.get("", ()), sizes)]
        while pending:
            path, depth = pending.pop()
            own = changes.get(path)
            directory = path in below or (own is not None and own.type == "d")
            rows.append(_Row(path, depth, sizes[path], own.kind if own else " ", directory))
            if path in self._open:
                pending += [(child, depth + 1) for child in _ordered(below.get(path, ()), sizes)]
        return rows


def _ordered(paths: Sequence[str] | set[str], sizes: dict[str, int]) -> list[str]:
    """Return paths in the order in which they are taken from the end: the largest last."""
    return sorted(paths, key=lambda path: (sizes[path], [-ord(char) for char in path]))


def _text(row: _Row, is_open: bool) -> str:
    mark = ("- " if is_open else "+ ") if row.is_directory else "  "
    name = one_line(row.path.rpartition("/")[2]) + ("/" if row.is_directory else "")
    return f"{row.kind} {human_bytes(row.bytes, 3):>8}  {'  ' * row.depth}{mark}{name}"


def _look(row: _Row) -> int:
    return _LOOKS.get(row.kind, PLAIN)
