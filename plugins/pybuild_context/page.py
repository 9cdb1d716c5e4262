"""A treemap as one HTML file that needs nothing else: click goes in, the path above goes back."""

import html
import json

from pybuild.plugin import human_bytes, ignore_pattern
from pybuild_context.measure import Report
from pybuild_context.values import as_tree

_STYLE = """
body { font: 14px/1.4 sans-serif; margin: 1em; color: #222; background: #fff }
#map { position: relative; height: 70vh; min-height: 20em; border: 1px solid #999; overflow: hidden }
#map button { position: absolute; box-sizing: border-box; border: 1px solid #fff; padding: 2px 4px; margin: 0;
  overflow: hidden; text-align: left; font: 12px sans-serif; white-space: nowrap; color: #111; vertical-align: top;
  display: flex; align-items: flex-start }
#map button.directory { cursor: zoom-in; font-weight: bold }
#map button:hover, #map button:focus { outline: 2px solid #000; z-index: 1 }
#path button { border: 0; background: none; color: #0645ad; cursor: pointer; padding: 0 2px; font: inherit }
table { border-collapse: collapse } td, th { padding: 2px 8px; text-align: right }
td:last-child, th:last-child { text-align: left }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } #path button { color: #8ab4f8 } }
"""

_SCRIPT = """
"use strict";
const LEAST = 2;
function amount(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return (unit ? bytes.toPrecision(3) : bytes) + units[unit];
}
function layout(nodes, x, y, width, height) {
  const total = nodes.reduce((sum, node) => sum + node.bytes, 0), placed = [];
  if (!total) return placed;
  const areas = nodes.map(node => node.bytes * width * height / total);
  const worst = (row, largest, smallest, side) =>
    Math.max(side * side * largest / (row * row), row * row / (side * side * smallest));
  let at = 0;
  while (at < areas.length) {
    const side = Math.min(width, height);
    let end = at + 1, row = areas[at];
    while (end < areas.length &&
           worst(row + areas[end], areas[at], areas[end], side) <= worst(row, areas[at], areas[end - 1], side)) {
      row += areas[end];
      end += 1;
    }
    const thick = side ? row / side : 0;
    let along = 0;
    for (let i = at; i < end; i += 1) {
      const long = thick ? areas[i] / thick : 0;
      placed.push(width >= height ? {node: nodes[i], x: x, y: y + along, width: thick, height: long}
                                  : {node: nodes[i], x: x + along, y: y, width: long, height: thick});
      along += long;
    }
    if (width >= height) { x += thick; width = Math.max(0, width - thick); }
    else { y += thick; height = Math.max(0, height - thick); }
    at = end;
  }
  return placed;
}
let shown = [];
function show(trail) {
  shown = trail;
  const here = trail[trail.length - 1], map = document.getElementById("map"), path = document.getElementById("path");
  map.replaceChildren();
  path.replaceChildren();
  trail.forEach((node, index) => {
    const step = document.createElement("button");
    step.textContent = node.name || "context";
    step.onclick = () => show(trail.slice(0, index + 1));
    path.append(step, index < trail.length - 1 ? " / " : ` ${amount(node.bytes)}, ${node.files} files`);
  });
  const inside = (here.children || []).filter(node => node.bytes);
  for (const place of layout(inside, 0, 0, map.clientWidth, map.clientHeight)) {
    if (place.width < LEAST || place.height < LEAST) continue;
    const box = document.createElement("button"), deeper = place.node.children;
    box.style.cssText = `left:${place.x}px;top:${place.y}px;width:${place.width}px;height:${place.height}px;` +
      `background:hsl(${deeper ? 210 : 40},60%,${Math.max(60, 88 - 30 * place.node.bytes / (here.bytes || 1))}%)`;
    box.textContent = place.node.name + (deeper ? "/" : "");
    box.title = `${place.node.name}: ${amount(place.node.bytes)}, ${place.node.files} files`;
    if (deeper) {
      box.className = "directory";
      box.onclick = () => show([...trail, place.node]);
    }
    map.append(box);
  }
}
if (typeof document !== "undefined") {
  const tree = JSON.parse(document.getElementById("tree").textContent);
  show([tree]);
  window.onresize = () => show(shown);
}
"""


def page(report: Report) -> str:
    """Return the page of a report."""
    title = html.escape(f"Build context {report.root}")
    # Within a script element only this sequence could end it (HTML, 13.1.2)
    data = json.dumps(as_tree(report.tree), separators=(",", ":")).replace("<", "\\u003c")
    used = f", {human_bytes(report.used.bytes, 3)} used" if report.used is not None else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p>{human_bytes(report.total.bytes, 3)} in {report.total.files} files{used}</p>
<p id="path"></p><div id="map"></div>
{_unused(report)}
<script type="application/json" id="tree">{data}</script><script>{_SCRIPT}</script>
</body></html>
"""


def _unused(report: Report) -> str:
    if not report.unused:
        return ""
    rows = "".join(
        f"<tr><td>{human_bytes(one.bytes, 3)}<td>{one.files}<td><code>{html.escape(ignore_pattern(one.name))}</code>"
        for one in report.unused[:100]
    )
    return f"<h2>Never used by the Dockerfile</h2><table><tr><th>size<th>files<th>ignore line</tr>{rows}</table>"
