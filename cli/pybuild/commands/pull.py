"""`pybuild pull`"""

import sys
from contextlib import closing
from typing import Annotated

from pybuild.api.events import Failed, Pulled
from pybuild.api.request import PullRequest
from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import as_json, write_line
from pybuild.errors import ExitCode, PybuildError


def pull(
    name: Annotated[list[str], Argument(help="Images as FROM names them.", metavar="NAME...")],
    platform: Annotated[
        str, Option(help="Platform of the image; this machine's is the default.", metavar="OS/ARCH[/V]")
    ] = "",
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print the image ids only.")] = False,
    json: Annotated[bool, Option("--json", help="Print what was pulled as JSON, one object a line.")] = False,
    progress: Annotated[str, Option(help="auto, tty, plain or json (one event a line).", metavar="KIND")] = "auto",
    insecure_registry: Annotated[
        list[str] | None,
        Option(help="A registry that may speak plain HTTP, or show any certificate.", metavar="HOST[:PORT]"),
    ] = None,
) -> int:
    """Bring images here from their registries; what is here already is not fetched again."""
    from pybuild.commands import registries
    from pybuild.commands.build import check_progress, failed
    from pybuild.progress import open_renderer

    check_progress(progress)
    request = PullRequest(tuple(name), platform, registries.proxies(), registries.settings(insecure_registry or ()))
    last: Pulled | Failed | None = None
    with connect() as backend, closing(backend.pull(request)) as events:
        with closing(open_renderer("quiet" if quiet and progress != "json" else progress, sys.stderr)) as renderer:
            for event in events:
                if isinstance(event, Pulled | Failed):
                    last = event
                renderer.show(event)
    if isinstance(last, Failed):
        return failed(last)
    if last is None:
        raise PybuildError("the pull ended without a result")
    for image in last.images:
        if json:
            values = image._asdict()
            # Of a manifest that was pushed
            del values["size"]
            write_line(as_json(values))
        else:
            write_line(image.image_id if quiet else f"{image.name}@{image.digest}")
    return ExitCode.OK
