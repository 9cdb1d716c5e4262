"""`pybuild layers`"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pybuild.plugin import (
    Argument,
    ExitCode,
    Option,
    UsageError,
    as_json,
    human_bytes,
    image_layers,
    new_file,
    write_line,
)
from pybuild_layers import text
from pybuild_layers.analysis import Analysis, analyse, differences

LOWEST = 90
"""The efficiency in percent that --ci asks for when nothing else is said."""

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}


def layers(
    image: Annotated[str, Argument(help="An image by name or id.", metavar="IMAGE")],
    other: Annotated[str, Argument(help="Another one, to see how they differ.", metavar="[IMAGE2]")] = "",
    layer: Annotated[
        int, Option("-l", "--layer", help="Show what this layer did, path by path.", metavar="NUMBER")
    ] = 0,
    tree: Annotated[bool, Option("--tree", help="Show the files by size, with their layers.")] = False,
    browse: Annotated[bool, Option("-b", "--browse", help="Look around on the terminal.")] = False,
    top: Annotated[int, Option("-n", "--top", help="How many of each kind to show (10).", metavar="COUNT")] = 10,
    json: Annotated[bool, Option("--json", help="As JSON.")] = False,
    html: Annotated[str, Option("--html", help="Write a page to look around in.", metavar="FILE")] = "",
    ci: Annotated[bool, Option("--ci", help="Exit code 1 below an efficiency of 90 percent.")] = False,
    lowest_efficiency: Annotated[int, Option(help="Exit code 1 below this.", metavar="PERCENT")] = 0,
    highest_wasted: Annotated[str, Option(help="Exit code 1 above this: 10MB, 500k.", metavar="SIZE")] = "",
    highest_size: Annotated[str, Option(help="Exit code 1 for more bytes of files.", metavar="SIZE")] = "",
) -> int:
    """Show what each layer of an image adds, changes and hides, and what that wastes; or how two images differ."""
    limits = _bytes(highest_wasted, "--highest-wasted"), _bytes(highest_size, "--highest-size")
    if top < 0:
        raise UsageError(f"--top is a number from 0 on, not: {top}")
    first = analyse(image_layers(image))
    if not 0 <= layer <= len(first.image.layers):
        raise UsageError(f"no such layer: {layer}", f"{image} has {len(first.image.layers)}")
    if other:
        _compare(first, analyse(image_layers(other)), top, json=json, html=html)
        return ExitCode.OK
    if html:
        from pybuild_layers.page import page

        _write(html, page(first))
    if browse:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("there is no terminal to look around on")
        from pybuild_layers.screen import browse as look_around

        look_around(first)
    elif json:
        write_line(as_json(as_values(first)))
    elif layer:
        lines = [*text.layer(first.changes[layer - 1])]
        if lines:
            write_line("\n".join(lines))
    elif not html:
        write_line("\n".join(text.tree(first, top) if tree else text.overview(first, top)))
    failed = [*_failures(first, lowest_efficiency or (LOWEST if ci else 0), *limits)]
    if failed and not json and not browse:
        write_line("\n".join(["", *failed]))
    return ExitCode.FAILED if failed else ExitCode.OK


def _compare(first: Analysis, second: Analysis, top: int, *, json: bool, html: str) -> None:
    found = differences(first, second)
    if html:
        from pybuild_layers.page import difference_page

        _write(html, difference_page(first, second, found))
    if json:
        images = [{"image": one.image.id, "bytes": one.seen} for one in (first, second)]
        write_line(as_json({"images": images, "differences": [one._asdict() for one in found]}))
    elif not html:
        write_line("\n".join(text.difference(first, second, found, top)))


def _write(path: str, page: str) -> None:
    with new_file(Path(path)) as file:
        file.write(page.encode(errors="replace"))


def _failures(analysis: Analysis, efficiency: int, wasted: int, size: int) -> Iterator[str]:
    if analysis.efficiency * 100 < efficiency:
        yield f"failed: the efficiency is {analysis.efficiency:.1%}, below {efficiency}%"
    if wasted >= 0 and analysis.wasted > wasted:
        yield f"failed: {human_bytes(analysis.wasted, 3)} are hidden by later layers, above {human_bytes(wasted, 3)}"
    if size >= 0 and analysis.stored > size:
        yield f"failed: {human_bytes(analysis.stored, 3)} of files, above {human_bytes(size, 3)}"


def _bytes(given: str, option: str) -> int:
    """Return a size in bytes, -1 for none; raise UsageError."""
    if not given:
        return -1
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmg]?)b?", given.strip().lower())
    if match is None:
        raise UsageError(f"{option} is a size such as 10MB, not: {given}")
    return int(float(match[1]) * _UNITS[match[2]])


def as_values(analysis: Analysis) -> dict[str, Any]:
    """Return an analysis as plain values; the names of its keys stay."""
    return {
        "image": analysis.image.id,
        "names": list(analysis.image.names),
        "storedBytes": analysis.stored,
        "seenBytes": analysis.seen,
        "wastedBytes": analysis.wasted,
        "efficiency": round(analysis.efficiency, 6),
        "layers": [
            {
                "digest": layer.digest,
                "tarBytes": layer.size,
                "createdBy": layer.created_by,
                **analysis.sums(index)._asdict(),
                "changes": [change._asdict() for change in analysis.changes[index]],
            }
            for index, layer in enumerate(analysis.image.layers)
        ],
        "waste": [
            {"path": waste.path, "bytes": waste.bytes, "layers": [layer + 1 for layer in waste.layers]}
            for waste in analysis.waste
        ],
    }
