"""`pybuild tag`"""

from typing import Annotated

from pybuild.client import connect
from pybuild.commands.option import Argument


def tag(
    name: Annotated[str, Argument(help="An image by name or id.", metavar="IMAGE")],
    new_name: Annotated[str, Argument(help="The name it gets.", metavar="NAME[:TAG]")],
) -> None:
    """Give an image another name."""
    from pybuild.commands.flags import tag as checked

    checked(new_name)
    with connect() as backend:
        backend.tag(name, new_name)
