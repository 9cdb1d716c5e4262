"""`pybuild history`"""

from datetime import UTC, datetime
from time import time
from typing import Annotated, Any

from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import short_id, write_line, write_rows
from pybuild.progress.amounts import human_bytes, human_duration

HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
_WIDTH = 45


def history(
    name: Annotated[str, Argument(help="An image by name or id.", metavar="IMAGE")],
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print ids only.")] = False,
    no_trunc: Annotated[bool, Option("--no-trunc", help="Print everything in full.")] = False,
    human: Annotated[bool, Option("--human/--no-human", help="Sizes and times for people.")] = True,
    format_: Annotated[str, Option("--format", help="table, json or a Go template.", metavar="FORMAT")] = "",
) -> None:
    """Show how an image came to be, newest step first."""
    with connect() as backend:
        steps = backend.history(name)
    rows = [_row(step, no_trunc=no_trunc, human=human) for step in steps]
    if quiet and not format_:
        write_line("\n".join(row["ID"] for row in rows))
        return
    columns = ["ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment"]
    write_rows(rows, format_, HEADERS, columns)


def _row(step: dict[str, Any], *, no_trunc: bool, human: bool) -> dict[str, str]:
    created = int(step["Created"])
    by = " ".join(str(step["CreatedBy"]).split())
    if not no_trunc and len(by) > _WIDTH:
        by = by[: _WIDTH - 1] + "…"
    at = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    return {
        "ID": step["Id"] if no_trunc or step["Id"] == "<missing>" else short_id(step["Id"]),
        "CreatedAt": at,
        "CreatedSince": f"{human_duration(max(0.0, time() - created))} ago" if human and created > 0 else at,
        "CreatedBy": by,
        "Size": human_bytes(step["Size"], 3) if human else str(step["Size"]),
        "Comment": str(step["Comment"] or ""),
    }
