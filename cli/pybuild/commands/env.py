"""`pybuild env`"""

import os
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
        for name in ("DOCKER_HOST", "DOCKER_BUILDKIT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
            write_line(f"set -e {name}" if shell == "fish" else f"unset {name}")
        return
    for name, value in _variables().items():
        quoted = shlex.quote(value)
        write_line(f"set -gx {name} {quoted}" if shell == "fish" else f"export {name}={quoted}")


def _variables() -> dict[str, str]:
    from pybuild.client.hosts import chosen

    host = chosen()
    if host is None:
        from pybuild.client.remote import Remote

        with Remote.connect() as remote:
            return _for_docker(f"unix://{remote.status()['socket']}")
    if host.scheme == "ssh":
        raise UsageError(
            f"docker's tools would look for a Docker on that machine: {host.url}",
            "bring its socket here: `ssh -L ./there.sock:/run/user/UID/pybuild/pybuild.sock MACHINE`",
        )
    variables = _for_docker(host.url)
    if host.ca:
        directory = os.path.dirname(host.ca)
        names = tuple(os.path.join(directory, name) for name in ("ca.pem", "cert.pem", "key.pem"))
        if (host.ca, host.cert, host.key) != names:
            raise UsageError(
                f"docker's tools want ca.pem, cert.pem and key.pem in one directory, unlike {host.name}",
            )
        variables |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": directory}
    return variables


def _for_docker(address: str) -> dict[str, str]:
    # The socket speaks the API of Docker's classic builder
    return {"DOCKER_HOST": address, "DOCKER_BUILDKIT": "0"}
