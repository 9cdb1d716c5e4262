"""`pybuild save`"""

from pathlib import Path
from typing import Annotated

from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import new_file, standard_output
from pybuild.errors import UsageError

FORMATS = ("docker", "oci")
COMPRESSIONS = ("none", "gzip", "zstd")


def save(
    name: Annotated[list[str], Argument(help="Images by name or id.", metavar="IMAGE...")],
    output: Annotated[str, Option("-o", "--output", help="File to write.", metavar="FILE")] = "",
    format_: Annotated[str, Option("--format", help="docker or oci.", metavar="FORMAT")] = "docker",
    compression: Annotated[str, Option(help="Compression of layers: none, gzip or zstd.", metavar="KIND")] = "none",
    platform: Annotated[
        str, Option(help="Of an image for several platforms only the one for this.", metavar="OS/ARCH[/V]")
    ] = "",
) -> None:
    """Write images to an archive, standard output without -o."""
    if format_ not in FORMATS:
        raise UsageError(f"unknown format: {format_}", f"known: {', '.join(FORMATS)}")
    if compression not in COMPRESSIONS:
        raise UsageError(f"unknown compression: {compression}", f"known: {', '.join(COMPRESSIONS)}")
    if output in ("", "-"):
        out = standard_output("an archive")
        with connect() as backend:
            backend.save(name, out, format=format_, compression=compression, platform=platform)
        out.flush()
        return
    with new_file(Path(output)) as file, connect() as backend:
        backend.save(name, file, format=format_, compression=compression, platform=platform)
