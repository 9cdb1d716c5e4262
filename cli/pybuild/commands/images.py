"""`pybuild images`"""

from datetime import UTC, datetime
from time import time
from typing import Annotated, Any

from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import parse_filters, short_id, write_line, write_rows
from pybuild.progress.amounts import human_bytes, human_duration

HEADERS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
}


def images(
    name: Annotated[str, Argument(help="Only images of this name; may hold * and ?.", metavar="[NAME]")] = "",
    all_: Annotated[bool, Option("-a", "--all", help="Also images without a name.")] = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print ids only.")] = False,
    no_trunc: Annotated[bool, Option("--no-trunc", help="Print whole ids.")] = False,
    filter_: Annotated[
        list[str] | None,
        Option("-f", "--filter", help="dangling, label, reference, before, since, until.", metavar="NAME=V"),
    ] = None,
    format_: Annotated[str, Option("--format", help="table, json or a Go template.", metavar="FORMAT")] = "",
    digests: Annotated[bool, Option("--digests", help="Show digests.")] = False,
) -> None:
    """List images, newest first."""
    filters = parse_filters(filter_ or ())
    if name:
        filters.setdefault("reference", []).append(name)
    with connect() as backend:
        found = backend.images(all=all_, filters=filters)
    rows = [row for image in found for row in _rows(image, no_trunc=no_trunc, by_name=name)]
    if quiet and not format_:
        ids = dict.fromkeys(row["ID"] for row in rows)
        if ids:
            write_line("\n".join(ids))
        return
    columns = ["Repository", "Tag", *(["Digest"] if digests else []), "ID", "CreatedSince", "Size"]
    write_rows(rows, format_, HEADERS, columns)


def _rows(image: dict[str, Any], *, no_trunc: bool, by_name: str) -> list[dict[str, str]]:
    created = int(image["Created"])
    common = {
        "Containers": "N/A",
        "CreatedAt": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "CreatedSince": f"{human_duration(max(0.0, time() - created))} ago" if created > 0 else "N/A",
        "Digest": "<none>",
        "ID": image["Id"] if no_trunc else short_id(image["Id"]),
        "SharedSize": "N/A",
        "Size": human_bytes(image["Size"], 3),
        "UniqueSize": "N/A",
    }
    rows = []
    for tag in image["RepoTags"] or ["<none>:<none>"]:
        repository, _, version = tag.rpartition(":")
        rows.append({**common, "Repository": repository, "Tag": version})
    return rows
