"""`pybuild inspect`"""

import sys
from typing import Annotated, Any

from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import as_json, write_line
from pybuild.errors import ExitCode, NotFoundError


def inspect(
    name: Annotated[list[str], Argument(help="Images by name or id.", metavar="IMAGE...")],
    format_: Annotated[
        str, Option("-f", "--format", help="json or a Go template, such as '{{.Config.Env}}'.", metavar="FORMAT")
    ] = "",
    platform: Annotated[
        str, Option(help="Of an image for several platforms the one for this.", metavar="OS/ARCH[/V]")
    ] = "",
) -> int:
    """Show all there is to know about images, as JSON."""
    from pybuild.commands.app import tell
    from pybuild.commands.gotemplate import parse_template
    from pybuild.progress.escape import escape

    template = parse_template(format_) if format_ not in ("", "json") else None
    found: list[dict[str, Any]] = []
    status: int = ExitCode.OK
    with connect() as backend:
        for each in name:
            try:
                found.append(backend.inspect(each, platform))
            except NotFoundError as error:
                # The others are shown all the same
                status = tell(error, error.exit_code)
    if template is not None:
        for image in found:
            text = template.render(image)
            write_line(escape(text) if sys.stdout.isatty() else text)
    elif format_ == "json":
        for image in found:
            write_line(as_json(image))
    else:
        write_line(as_json(found, indent=4))
    return status
