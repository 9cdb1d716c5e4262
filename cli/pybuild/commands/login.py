"""`pybuild login`"""

import sys
from typing import Annotated

from pybuild.commands.option import Argument, InsecureRegistries, Option
from pybuild.commands.output import write_line
from pybuild.errors import UsageError


def login(
    registry: Annotated[
        str, Argument(help="Its host, as in names of images; docker.io without it.", metavar="HOST")
    ] = "",
    username: Annotated[
        str, Option("-u", "--username", help="Who logs in; asked for without it.", metavar="NAME")
    ] = "",
    password_stdin: Annotated[bool, Option("--password-stdin", help="Read the password from standard input.")] = False,
    insecure_registry: InsecureRegistries = None,
) -> None:
    """Log in to a registry; the password comes from standard input or is asked for, and is kept as docker does."""
    from threading import Event as Flag

    from pybuild.commands import registries
    from pybuild.engine.registries import RegistryClients
    from pybuild.oci.reference import DEFAULT_DOMAIN, Reference
    from pybuild.registry.authorization import Credentials
    from pybuild.registry.credentials import CredentialFiles
    from pybuild.registry.login import check

    host = registries.host(registry) if registry else DEFAULT_DOMAIN
    settings = registries.settings(insecure_registry or ())
    credentials = Credentials(*_asked(host, username, from_stdin=password_stdin))
    with RegistryClients(settings, registries.proxies(), "", Flag(), lambda _: credentials) as clients:
        [source] = clients.sources(Reference(host, "login", "latest"), pull=False)
        check(source.client, credentials)
    where = CredentialFiles(settings.environment).store(host, credentials)
    write_line(f"logged in to {host} as {credentials.username}; kept in {where}")


def _asked(host: str, username: str, *, from_stdin: bool) -> tuple[str, str]:
    if from_stdin:
        if not username:
            raise UsageError("--password-stdin needs --username")
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    else:
        if not sys.stdin.isatty():
            raise UsageError("the password is asked for on a terminal", "or give it to `--password-stdin`")
        from getpass import getpass

        username = username or input(f"Username for {host}: ").strip()
        password = getpass(f"Password of {username} for {host}: ")
    if not username or not password or ":" in username:
        raise UsageError("a user name without a colon and a password are needed")
    return username, password
