"""`pybuild sbom`"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pybuild.plugin import (
    VERSION,
    Argument,
    InsecureRegistries,
    Option,
    UsageError,
    as_json,
    inspect_image,
    new_file,
    table,
    write_line,
)
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
    attach: Annotated[bool, Option("--attach", help="Attach it to the image at its registry (OCI referrers).")] = False,
    provenance: Annotated[
        bool, Option("--provenance", help="How it was built (SLSA 1) instead; with --attach both.")
    ] = False,
    builder_id: Annotated[
        str, Option("--builder-id", help="Who vouches for the provenance.", metavar="URI")
    ] = f"pkg:pypi/pybuild@{VERSION}",
    insecure_registry: InsecureRegistries = None,
) -> None:
    """List the packages in an image as a bill of materials, from the databases in its final tree."""
    _check(format, skip or [], attach=attach, output=output)
    if attach:
        _attach(image, format, skip or [], builder_id if provenance else "", insecure_registry or [])
    elif provenance:
        _write(_provenance(image, builder_id), output)
    elif format == "table":
        _write("\n".join(_table(contents(image, skip or []))), output)
    else:
        _write(_text(contents(image, skip or []), format), output)


def _check(format: str, skip: list[str], *, attach: bool, output: str) -> None:
    if format not in FORMATS:
        raise UsageError(f"unknown format: {format}", f"known: {', '.join(FORMATS)}")
    unknown = sorted({*skip} - {*READERS})
    if unknown:
        raise UsageError(f"unknown kind of packages: {unknown[0]}", f"known: {', '.join(READERS)}")
    if attach and format == "table":
        raise UsageError("a table is for people: --attach takes spdx or cyclonedx")
    if attach and output:
        raise UsageError("--attach and --output exclude each other")


def _attach(image: str, format: str, skip: list[str], builder_id: str, insecure: list[str]) -> None:
    from pybuild_sbom.attach import attach, subjects

    wanted = subjects(image, inspect_image(image).get("RepoDigests") or ())
    documents = [(format, _text(contents(image, skip), format).encode() + b"\n")]
    if builder_id:
        documents.append(("provenance", _provenance(image, builder_id).encode() + b"\n"))
    for subject, made in attach(wanted, documents, insecure):
        write_line(f"{made.artifact_type} {subject.partition('@')[0]}@{made.digest}")


def _write(text: str, output: str) -> None:
    if output:
        with new_file(Path(output)) as file:
            file.write(text.encode() + b"\n")
    else:
        write_line(text)


def _text(found: Contents, format: str) -> str:
    return as_json(_document(found, format), indent=2)


def _document(found: Contents, format: str) -> dict[str, Any]:
    if format == "spdx":
        from pybuild_sbom import spdx

        return spdx.document(found)
    from pybuild_sbom import cyclonedx

    return cyclonedx.document(found, "1.5" if format.endswith("1.5") else "1.6")


def _provenance(image: str, builder_id: str) -> str:
    from pybuild_sbom import provenance

    return as_json(provenance.document(image, builder_id), indent=2)


def _table(found: Contents) -> Iterator[str]:
    rows = [[one.kind, one.full_name, one.version, ", ".join(one.licences)[:_LICENCES]] for one in found.packages]
    yield from table(["KIND", "NAME", "VERSION", "LICENCES"], rows)
    yield f"{len(rows)} packages" if len(rows) != 1 else "1 package"
