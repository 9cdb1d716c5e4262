"""Layers, or how two images differ, as one HTML file that needs nothing else: a view is chosen, directories open."""

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pybuild.plugin import human_bytes
from pybuild_layers.analysis import Analysis, Difference, bytes_of

MOST_CHILDREN = 200
"""The smallest of more are told together."""
MOST_WASTE = 200

Row = tuple[str, int, str, str]
"""A path with its bytes, how it came to be there, and what else is to be said of it."""

_STYLE = """
body { font: 14px/1.5 sans-serif; margin: 1em; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: 1px 8px; text-align: right; vertical-align: top }
td:last-child, th:last-child { text-align: left; font-family: monospace; overflow-wrap: anywhere }
#views button { border: 0; background: none; color: #0645ad; cursor: pointer; font: inherit; padding: 0 4px }
#views tr.chosen { background: #d7e6f8 }
#tree ul { list-style: none; margin: 0; padding-left: 1.4em } #tree > ul { padding: 0 }
#tree button, #tree span { font: 13px/1.6 monospace; white-space: pre-wrap; border: 0; background: none; padding: 0;
  color: inherit; text-align: left; overflow-wrap: anywhere }
#tree button { cursor: pointer; font-weight: bold }
.added { color: #146c2e } .changed { color: #8a5a00 } .hidden { color: #b3261e; text-decoration: line-through }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } #views button { color: #8ab4f8 }
  #views tr.chosen { background: #2b3a4d } .added { color: #7bd88f } .changed { color: #e5b567 }
  .hidden { color: #f28b82 } }
"""

_SCRIPT = """
"use strict";
const KINDS = {"+": "added", "~": "changed", "-": "hidden"};
function amount(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return (unit ? bytes.toPrecision(3) : bytes) + units[unit];
}
function list(nodes) {
  const made = document.createElement("ul");
  for (const node of nodes) {
    const item = document.createElement("li"), row = document.createElement(node.children ? "button" : "span");
    row.textContent = `${node.kind || " "} ${amount(node.bytes).padStart(8)}  ${node.children ? "+ " : "  "}` +
      node.name + (node.children ? "/" : "") + (node.note ? `  (${node.note})` : "");
    row.className = KINDS[node.kind] || "";
    if (node.children) {
      row.setAttribute("aria-expanded", "false");
      row.onclick = () => {
        const inside = item.querySelector("ul");
        if (inside) inside.remove(); else item.append(list(node.children));
        row.setAttribute("aria-expanded", String(!inside));
        row.textContent = row.textContent.replace(inside ? "  - " : "  + ", inside ? "  + " : "  - ");
      };
    }
    item.append(row);
    made.append(item);
  }
  return made;
}
function choose(trees, index) {
  document.querySelectorAll("#views tr[data-view]").forEach(row =>
    row.classList.toggle("chosen", row.dataset.view === String(index)));
  document.getElementById("tree").replaceChildren(list(trees[index]));
}
const trees = JSON.parse(document.getElementById("trees").textContent);
document.querySelectorAll("#views button").forEach(button =>
  button.onclick = () => choose(trees, Number(button.closest("tr").dataset.view)));
choose(trees, 0);
"""


def page(analysis: Analysis) -> str:
    """Return the page of an image: the tree that is seen in the end, and what each layer did."""
    image = analysis.image
    title = f"Layers of {image.names[0] if image.names else image.id[:19]}"
    told = (
        f"{_count(len(image.layers), 'layer')}, {_size(analysis.stored)} of files, efficiency "
        f"{analysis.efficiency:.1%}, {_size(analysis.wasted)} hidden by later layers"
    )
    seen = ((path, bytes_of(entry), "", f"layer {index + 1}") for path, (index, entry) in analysis.tree.items())
    trees = [_tree(seen)]
    rows = [["all", _size(analysis.seen), "", "", "", "what is seen in the end"]]
    for index, layer in enumerate(image.layers):
        sums = analysis.sums(index)
        trees.append(_tree((change.path, change.bytes, change.kind, "") for change in analysis.changes[index]))
        counts = [str(count) if count else "" for count in (sums.added, sums.changed, sums.hidden)]
        rows.append([str(index + 1), _size(sums.bytes), *counts, " ".join(layer.created_by.split())])
    heads = ["layer", "files", "added", "changed", "hidden", "created by"]
    return _written(title, told, heads, rows, trees, _waste(analysis))


def difference_page(first: Analysis, second: Analysis, found: Sequence[Difference]) -> str:
    """Return the page of two images: the paths that differ."""
    names = [one.image.names[0] if one.image.names else one.image.id[:19] for one in (first, second)]
    told = f"{_size(first.seen)} and {_size(second.seen)} of files; {_count(len(found), 'path')} not the same"
    rows = []
    for one in found:
        sizes = f"{_size(one.before)} before" if one.kind == "~" and one.before != one.after else ""
        bytes_ = one.before if one.kind == "-" else one.after
        rows.append((one.path, bytes_, one.kind, ", ".join(filter(None, (one.what, sizes)))))
    counts = [str(sum(one.kind == kind for one in found)) for kind in "+~-"]
    heads = ["", "files", "added", "changed", "gone", ""]
    table = [["differences", "", *counts, f"from {names[0]} to {names[1]}"]]
    return _written(f"{names[0]} and {names[1]}", told, heads, table, [_tree(rows)], "")


def _written(
    title: str, told: str, heads: Sequence[str], rows: Sequence[Sequence[str]], trees: Sequence[Any], rest: str
) -> str:
    # Within a script element only this sequence could end it (HTML, 13.1.2)
    data = json.dumps(trees, separators=(",", ":")).replace("<", "\\u003c")
    head = "".join(f"<th>{html.escape(name)}" for name in heads)
    body = "".join(
        f'<tr data-view="{number}"><td><button>{html.escape(row[0])}</button>'
        + "".join(f"<td>{html.escape(_shown(cell))}" for cell in row[1:])
        for number, row in enumerate(rows)
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{html.escape(_shown(title))}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(_shown(title))}</h1>
<p>{html.escape(told)}</p>
<table id="views"><tr>{head}{body}</table>
<div id="tree"></div>
{rest}
<script type="application/json" id="trees">{data}</script><script>{_SCRIPT}</script>
</body></html>
"""


def _waste(analysis: Analysis) -> str:
    if not analysis.waste:
        return ""
    rows = "".join(
        f"<tr><td>{_size(one.bytes)}<td>{', '.join(str(layer + 1) for layer in one.layers)}"
        f"<td>{html.escape(_shown(one.path))}"
        for one in analysis.waste[:MOST_WASTE]
    )
    return f'<h2>Hidden by later layers</h2><table id="waste"><tr><th>size<th>layers<th>path{rows}</table>'


def _tree(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return nested nodes of paths; directories have the sum of what is in them, and the largest come first."""
    top: dict[str, Any] = {"bytes": 0, "below": {}}
    for path, size, kind, note in rows:
        node = top
        node["bytes"] += size
        for name in path.split("/"):
            node = node["below"].setdefault(name, {"bytes": 0, "below": {}})
            node["bytes"] += size
        node["kind"], node["note"] = kind, note
    return [*_nodes(top["below"])]


def _nodes(below: dict[str, Any]) -> Iterator[dict[str, Any]]:
    ordered = sorted(below.items(), key=lambda item: (-item[1]["bytes"], item[0]))
    for name, node in ordered[:MOST_CHILDREN]:
        made: dict[str, Any] = {"name": _shown(name), "bytes": node["bytes"]}
        if node.get("kind"):
            made["kind"] = node["kind"]
        if node["below"]:
            made["children"] = [*_nodes(node["below"])]
        elif node.get("note"):
            made["note"] = node["note"]
        yield made
    rest = ordered[MOST_CHILDREN:]
    if rest:
        yield {"name": f"({len(rest)} more)", "bytes": sum(node["bytes"] for _, node in rest)}


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    return human_bytes(size, 3)
