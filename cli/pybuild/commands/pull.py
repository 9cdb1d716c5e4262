"""`pybuild pull`"""

from typing import Annotated

from pybuild.api.events import Failed, Pulled
from pybuild.api.request import PullRequest
from pybuild.client import connect
from pybuild.commands.option import Argument, InsecureRegistries, Option, ProgressKind
from pybuild.commands.output import as_json, write_line
from pybuild.errors import ExitCode
from pybuild.plugin.events import check_progress, exit_code_of, show_events


def pull(
    name: Annotated[list[str], Argument(help="Images as FROM names them.", metavar="NAME...")],
    platform: Annotated[
        str, Option(help="Platform of the image; this machine's is the default.", metavar="OS/ARCH[/V]")
    ] = "",
    all_tags: Annotated[bool, Option("-a", "--all-tags", help="All tags of the repositories NAME.")] = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print the image ids only.")] = False,
    json: Annotated[bool, Option("--json", help="Print what was pulled as JSON, one object a line.")] = False,
    progress: ProgressKind = "auto",
    insecure_registry: InsecureRegistries = None,
) -> int:
    """Bring images here from their registries; what is here already is not fetched again."""
    from pybuild.commands import registries

    check_progress(progress)
    request = PullRequest(
        tuple(name), platform, registries.proxies(), registries.settings(insecure_registry or ()), all_tags
    )
    with connect() as backend:
        last = show_events(backend.pull(request), progress, quiet=quiet)
    if isinstance(last, Failed):
        return exit_code_of(last)
    assert isinstance(last, Pulled)
    for image in last.images:
        if json:
            values = image._asdict()
            # Of a manifest that was pushed
            del values["size"]
            write_line(as_json(values))
        else:
            write_line(image.image_id if quiet else f"{image.name}@{image.digest}")
    return ExitCode.OK
