"""`pybuild auth`: which credentials are used, and why."""

from typing import Annotated

from pybuild.commands.option import Argument
from pybuild.commands.output import write_line
from pybuild.errors import PybuildError
from pybuild.plugin.option import Commands

app = Commands(
    "See which credentials are used, and why.",
    {"why": ("pybuild.commands.auth:why", "Show where credentials for a registry are looked for, and what is found")},
)


def why(
    registry: Annotated[
        str, Argument(help="Its host, as in names of images; with a repository what that has.", metavar="HOST[/REPO]")
    ],
) -> None:
    """Show where credentials for a registry are looked for in order, and what is found; no password is shown."""
    from pybuild.commands import registries
    from pybuild.progress.escape import one_line
    from pybuild.registry.credentials import CredentialFiles, who

    domain, _, part = registry.partition("/") if "://" not in registry else (registry, "", "")
    host, part = registries.host(domain), part.partition("@")[0].partition(":")[0].strip("/")
    used = ""
    try:
        for look in CredentialFiles(registries.settings().environment).looks(host, part):
            found = look.credentials is not None and not used
            if found:
                used = f"{who(look.credentials)}, from {look.place}"
            write_line(f"{'*' if found else ' '} {one_line(look.place)}: {one_line(look.told)}")
    except PybuildError as error:
        raise PybuildError(f"builds would fail here: {error.message}", error.hint) from error
    what = f"{host}/{part}" if part else host
    write_line(f"{one_line(what)} is asked as {one_line(used) or 'nobody in particular'}")
