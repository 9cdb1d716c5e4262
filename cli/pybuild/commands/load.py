"""`pybuild load`"""

import os
from pathlib import Path
from typing import Annotated

from pybuild.client import connect
from pybuild.commands.option import Option
from pybuild.commands.output import input_file, write_line
from pybuild.progress.escape import one_line


def load(
    source: Annotated[
        str, Option("-i", "--input", help="An archive, or the directory of an OCI layout.", metavar="PATH")
    ] = "-",
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print nothing.")] = False,
) -> None:
    """Take images in from an archive (docker or OCI, compressed or not), standard input without -i."""
    if source != "-" and os.path.isdir(source):
        with connect() as backend:
            loaded = backend.load(Path(os.path.abspath(source)))
    else:
        with input_file(source, "the archive") as file, connect() as backend:
            loaded = backend.load(file)
    if quiet:
        return
    for item in loaded:
        if "name" in item:
            write_line(f"Loaded image: {one_line(item['name'])}")
        else:
            write_line(f"Loaded image ID: {one_line(item['id'])}")
