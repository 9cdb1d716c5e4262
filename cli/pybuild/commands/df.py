"""`pybuild df`"""

from time import time
from typing import Annotated, Any

from pybuild.client import connect
from pybuild.commands.option import Option
from pybuild.commands.output import as_json, write_line, write_rows
from pybuild.progress.amounts import human_bytes, human_duration

HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}

CACHE_HEADERS = {"ID": "ID", "Target": "TARGET", "Size": "SIZE", "Created": "CREATED", "LastUsed": "LAST USED"}


def df(
    format_: Annotated[str, Option("--format", help="table, json or a Go template.", metavar="FORMAT")] = "",
    json: Annotated[bool, Option("--json", help="Print one JSON object, sizes in bytes.")] = False,
    caches: Annotated[bool, Option("--caches", help="Show each cache of RUN --mount=type=cache instead.")] = False,
) -> None:
    """Show how much of the disk is used by what."""
    with connect() as backend:
        usage = backend.df()
    if json:
        write_line(as_json(usage))
        return
    if caches:
        write_rows([_cache(row) for row in usage.get("caches", ())], format_, CACHE_HEADERS, list(CACHE_HEADERS))
        return
    write_rows([_row(row) for row in usage["rows"]], format_, HEADERS, list(HEADERS))


def _row(row: dict[str, Any]) -> dict[str, str]:
    share = f" ({100 * row['reclaimable'] // row['size']}%)" if row["size"] else ""
    return {
        "Type": str(row["type"]),
        "TotalCount": str(row["total"]),
        "Active": str(row["active"]),
        "Size": human_bytes(row["size"]),
        "Reclaimable": human_bytes(row["reclaimable"]) + share,
    }


def _cache(row: dict[str, Any]) -> dict[str, str]:
    return {
        "ID": str(row["id"]),
        "Target": str(row["target"]),
        "Size": human_bytes(row["size"]),
        "Created": _ago(row["created"]),
        "LastUsed": _ago(row["last_used"]),
    }


def _ago(moment: float) -> str:
    return f"{human_duration(max(0.0, time() - moment))} ago" if moment else ""
