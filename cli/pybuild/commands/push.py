"""`pybuild push`"""

import sys
from contextlib import closing
from typing import Annotated

from pybuild.api.events import Failed, Pushed
from pybuild.api.request import PushRequest
from pybuild.client import connect
from pybuild.commands.option import Argument, Option
from pybuild.commands.output import as_json, write_line
from pybuild.errors import ExitCode, PybuildError


def push(
    name: Annotated[list[str], Argument(help="Images by name; the name says where they go.", metavar="NAME...")],
    all_tags: Annotated[bool, Option("-a", "--all-tags", help="All tags of the repositories NAME.")] = False,
    compression: Annotated[
        str, Option(help="gzip, zstd or none; without it gzip, or the form that is here.", metavar="KIND")
    ] = "",
    compression_level: Annotated[str, Option(help="Of layers that are not compressed yet.", metavar="N")] = "",
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print nothing but digests.")] = False,
    json: Annotated[bool, Option("--json", help="Print what was pushed as JSON, one object a line.")] = False,
    progress: Annotated[str, Option(help="auto, tty, plain or json (one event a line).", metavar="KIND")] = "auto",
    insecure_registry: Annotated[
        list[str] | None,
        Option(help="A registry that may speak plain HTTP, or show any certificate.", metavar="HOST[:PORT]"),
    ] = None,
) -> int:
    """Bring images to their registries; what is there already is not sent again."""
    from pybuild.commands import registries
    from pybuild.commands.build import check_progress, failed
    from pybuild.progress import open_renderer

    check_progress(progress)
    request = PushRequest(
        tuple(name),
        all_tags,
        compression,
        compression_level,
        registries.proxies(),
        registries.settings(insecure_registry or ()),
    )
    last: Pushed | Failed | None = None
    with connect() as backend, closing(backend.push(request)) as events:
        with closing(open_renderer("quiet" if quiet and progress != "json" else progress, sys.stderr)) as renderer:
            for event in events:
                if isinstance(event, Pushed | Failed):
                    last = event
                renderer.show(event)
    if isinstance(last, Failed):
        return failed(last)
    if last is None:
        raise PybuildError("the push ended without a result")
    for image in last.images:
        if json:
            write_line(as_json(image._asdict()))
        else:
            write_line(image.digest if quiet else f"{image.name}@{image.digest}")
    return ExitCode.OK
