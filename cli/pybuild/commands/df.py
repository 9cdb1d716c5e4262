"""`pybuild df`"""

from typing import Annotated, Any

from pybuild.client import connect
from pybuild.commands.option import Option
from pybuild.commands.output import write_rows
from pybuild.progress.amounts import human_bytes

HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def df(
    format_: Annotated[str, Option("--format", help="table, json or a Go template.", metavar="FORMAT")] = "",
) -> None:
    """Show how much of the disk is used by what."""
    with connect() as backend:
        usage = backend.df()
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
