"""`pybuild logout`"""

from typing import Annotated

from pybuild.commands.option import Argument
from pybuild.commands.output import write_line


def logout(
    registry: Annotated[
        str, Argument(help="Its host, as in names of images; docker.io without it.", metavar="HOST")
    ] = "",
) -> None:
    """Forget the credentials for a registry, wherever they are kept."""
    from pybuild.commands import registries
    from pybuild.oci.reference import DEFAULT_DOMAIN
    from pybuild.registry.credentials import CredentialFiles

    host = registries.host(registry) if registry else DEFAULT_DOMAIN
    gone = CredentialFiles(registries.settings().environment).erase(host)
    if not gone:
        write_line(f"nobody was logged in to {host}")
    for place in gone:
        write_line(f"forgotten: {host} in {place}")
