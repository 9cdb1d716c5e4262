"""`pybuild sbom`"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pybuild.plugin import Argument, Option, UsageError, as_json, new_file, table, write_line
from pybuild_sbom.reading import READERS, Contents, contents

_LICENCES = 60  # columns

FORMATS = ("spdx", "cyclonedx", "cyclonedx-1.5", "table")


def sbom(
    image: Annotated[str, Argument(help="An image by name or id.", metavar="IMAGE")],
    format: Annotated[
        str, Option("-f", "--format", help="spdx (2.3), cyclonedx (1.6), cyclonedx-1.5 or table.", metavar="FORMAT")
    ] = "spdx",
    output: Annotated[str, Option("-o", "--output", help="Write to a file.", metavar="FILE")] = "",
    skip: Annotated[
        list[str] | None, Option("--skip", help="Leave out dpkg, apk, rpm, pip or npm.", metavar="KIND")
    ] = None,
) -> None:
    """List the packages in an image as a bill of materials, from the databases in its final tree."""
    if format not in FORMATS:
        raise UsageError(f"unknown format: {format}", f"known: {', '.join(FORMATS)}")
    unknown = sorted({*(skip or ())} - {*READERS})
    if unknown:
        raise UsageError(f"unknown kind of packages: {unknown[0]}", f"known: {', '.join(READERS)}")
    found = contents(image, skip or ())
    text = "\n".join(_table(found)) if format == "table" else as_json(written(found, format), indent=2)
    if output:
        with new_file(Path(output)) as file:
            file.write(text.encode() + b"\n")
    else:
        write_line(text)


def written(found: Contents, format: str) -> dict[str, Any]:
    """Return the document in one of the formats."""
    if format == "spdx":
        from pybuild_sbom import spdx

        return spdx.document(found)
    from pybuild_sbom import cyclonedx

    return cyclonedx.document(found, "1.5" if format.endswith("1.5") else "1.6")


def _table(found: Contents) -> Iterator[str]:
    rows = [[one.kind, one.name, one.version, ", ".join(one.licences)[:_LICENCES]] for one in found.packages]
    yield from table(["KIND", "NAME", "VERSION", "LICENCES"], rows)
    yield f"{len(rows)} packages" if len(rows) != 1 else "1 package"
