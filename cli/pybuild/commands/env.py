"""`pybuild env`"""

import shlex
from typing import Annotated

from pybuild.commands.option import Option
from pybuild.commands.output import write_line
from pybuild.errors import UsageError

SHELLS = ("sh", "fish")


def env(
    shell: Annotated[str, Option("--shell", help="sh (also bash and zsh) or fish.", metavar="SHELL")] = "sh",
    unset: Annotated[bool, Option("--unset", help="Print what takes it back.")] = False,
) -> None:
    """Print what makes docker's tools build with pybuild: eval "$(pybuild env)". Starts the daemon if none runs."""
    if shell not in SHELLS:
        raise UsageError(f"unknown shell: {shell}", f"known: {', '.join(SHELLS)}")
    if unset:
        for name in ("DOCKER_HOST", "DOCKER_BUILDKIT"):
            write_line(f"set -e {name}" if shell == "fish" else f"unset {name}")
        return
    from pybuild.client.remote import Remote

    with Remote.connect() as remote:
        socket = str(remote.status()["socket"])
    # The socket speaks the API of Docker's classic builder
    for name, value in (("DOCKER_HOST", f"unix://{socket}"), ("DOCKER_BUILDKIT", "0")):
        quoted = shlex.quote(value)
        write_line(f"set -gx {name} {quoted}" if shell == "fish" else f"export {name}={quoted}")
