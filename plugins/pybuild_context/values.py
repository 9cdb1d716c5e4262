"""The report as plain values, for `--json`."""

from typing import Any

from pybuild_context.measure import Node, Report

MOST_CHILDREN = 200
"""The smallest of more are told together."""
MOST_LEVELS = 100
"""What lies deeper is told with the directory it is in."""


def as_values(report: Report) -> dict[str, Any]:
    """Return all of a report; the names of its keys stay."""
    return {
        "root": report.root,
        "dockerfile": report.dockerfile,
        "ignoreFile": report.ignore_file,
        "total": {"bytes": report.total.bytes, "files": report.total.files},
        "ignored": {"bytes": report.ignored.bytes, "files": report.ignored.files},
        "used": None if report.used is None else {"bytes": report.used.bytes, "files": report.used.files},
        "usedUnknownBecause": report.why if report.used is None else "",
        "extensions": [{"extension": one.name, "bytes": one.bytes, "files": one.files} for one in report.extensions],
        "ignoreLines": [one._asdict() for one in report.lines],
        "duplicates": [{"bytes": one.bytes, "paths": list(one.paths)} for one in report.duplicates],
        "unused": [{"path": one.name, "bytes": one.bytes, "files": one.files} for one in report.unused],
        "changed": None if report.changed is None else list(report.changed),
        "unreadable": list(report.unreadable),
        "unknownBases": list(report.unknown_bases),
        "tree": as_tree(report.tree),
    }


def as_tree(node: Node, levels: int = MOST_LEVELS) -> dict[str, Any]:
    """Return a tree of at most so many levels in which no directory has more than MOST_CHILDREN children."""
    value: dict[str, Any] = {"name": node.name, "bytes": node.bytes, "files": node.files}
    if node.children and levels:
        value["children"] = [as_tree(child, levels - 1) for child in node.children[:MOST_CHILDREN]]
        rest = node.children[MOST_CHILDREN:]
        if rest:
            sizes = sum(child.bytes for child in rest), sum(child.files for child in rest)
            value["children"].append({"name": f"({len(rest)} more)", "bytes": sizes[0], "files": sizes[1]})
    return value
