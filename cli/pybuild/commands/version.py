"""`pybuild version`"""

import os
import platform
import sys
from typing import Annotated, Any

from pybuild import __version__
from pybuild.commands.option import Option
from pybuild.commands.output import as_json, write_line
from pybuild.errors import PybuildError


def version(
    format_: Annotated[str, Option("-f", "--format", help="json or a Go template.", metavar="FORMAT")] = "",
) -> None:
    """Show the version of this program and of the daemon, if one runs."""
    machine = os.uname()
    client = {
        "Version": __version__,
        "Python": platform.python_version(),
        "Os": sys.platform,
        "Arch": machine.machine,
        "KernelVersion": machine.release,
    }
    told = {"Client": client, "Server": _server()}
    if format_ == "json":
        write_line(as_json(told))
    elif format_:
        from pybuild.commands.gotemplate import parse_template

        write_line(parse_template(format_).render(told))
    else:
        for title, values in told.items():
            write_line(f"{title}:" if values else f"{title}: no daemon runs")
            for name, value in (values or {}).items():
                write_line(f" {name + ':':<15} {value}")


def _server() -> dict[str, Any] | None:
    """Return what the daemon says of itself. None is started to be asked."""
    from pybuild.client.remote import Remote

    try:
        remote = Remote.running()
        if remote is None:
            return None
        with remote:
            status = remote.status()
    except PybuildError as error:
        return {"Error": error.message}
    return {"Version": status.get("version"), "Pid": status.get("pid"), "Socket": status.get("socket")}
