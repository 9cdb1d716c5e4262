"""`pybuild rmi`"""

from typing import Annotated

from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import write_line
from pybuild.errors import ConflictError, ExitCode, NotFoundError
from pybuild.progress.escape import one_line


def rmi(
    name: Annotated[list[str], Argument(help="Images by name or id.", metavar="IMAGE...")],
    force: Annotated[bool, Option("-f", "--force", help="Also an image with several names.")] = False,
) -> int:
    """Remove names of images, and images with their last name."""
    from pybuild.commands.app import tell

    status: int = ExitCode.OK
    with connect() as backend:
        for each in name:
            try:
                removed = backend.remove(each, force=force)
            except (NotFoundError, ConflictError) as error:
                # The others are removed all the same
                status = tell(error, error.exit_code)
                continue
            for item in removed:
                for what, which in item.items():
                    write_line(f"{what}: {one_line(which)}")
    return status
