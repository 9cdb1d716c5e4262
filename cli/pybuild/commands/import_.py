"""`pybuild import`"""

from typing import Annotated

from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import input_file, write_line
from pybuild.errors import UsageError


def import_(
    file: Annotated[str, Argument(help="A tar, compressed or not; - is standard input.", metavar="FILE")],
    name: Annotated[str, Argument(help="The name it gets.", metavar="[NAME[:TAG]]")] = "",
    change: Annotated[
        list[str] | None,
        Option("-c", "--change", help="A Dockerfile instruction to apply.", metavar="INSTRUCTION"),
    ] = None,
    message: Annotated[str, Option("-m", "--message", help="Comment in the history.", metavar="TEXT")] = "",
) -> None:
    """Make an image of a root file system archive; prints its id."""
    from pybuild.commands.flags import tag as checked

    if file.startswith(("http://", "https://")):
        raise UsageError(f"importing from the network is not supported: {file}", "fetch it, and give it as -")
    if name:
        checked(name)
    with input_file(file, "the archive") as source, connect() as backend:
        write_line(backend.import_(source, name, changes=change or (), message=message))
