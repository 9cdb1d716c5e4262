"""`pybuild context size`"""

import os
from pathlib import Path
from typing import Annotated

from pybuild.plugin import Argument, DockerfileError, Option, UsageError, as_json, new_file, open_context, write_line
from pybuild_context.measure import Report, measure


def size(
    directory: Annotated[str, Argument(help="The directory that is built.", metavar="[DIR]")] = ".",
    file: Annotated[str, Option("-f", "--file", help="The Dockerfile.", metavar="FILE")] = "",
    build_arg: Annotated[list[str] | None, Option("--build-arg", help="As for a build.", metavar="NAME=VALUE")] = None,
    top: Annotated[int, Option("-n", "--top", help="How many of each kind to show (10).", metavar="COUNT")] = 10,
    duplicates: Annotated[
        bool, Option("--duplicates/--no-duplicates", help="Look for files of the same content.")
    ] = True,
    fix: Annotated[bool, Option("--fix", help="Add what no step uses to the ignore file.")] = False,
    json: Annotated[bool, Option("--json", help="As JSON.")] = False,
    html: Annotated[str, Option("--html", help="Write a treemap to click in.", metavar="FILE")] = "",
    svg: Annotated[str, Option("--svg", help="Write a treemap as a picture.", metavar="FILE")] = "",
) -> None:
    """Show what a build would read of a directory: what makes it large, and what no COPY or ADD uses."""
    if top < 0:
        raise UsageError(f"--top is a number from 0 on, not: {top}")
    report = look(directory, file, build_arg or [], duplicates=duplicates)
    if html:
        from pybuild_context.page import page

        _write(html, page(report))
    if svg:
        from pybuild_context.picture import picture

        _write(svg, picture(report.tree, report.root))
    if json:
        from pybuild_context.values import as_values

        write_line(as_json(as_values(report)))
    elif not (html or svg):
        from pybuild_context.text import lines

        write_line("\n".join(lines(report, top)))
    if fix:
        from pybuild_context.fixing import fix as mend

        mend(report)


def look(directory: str, file: str, build_args: list[str], *, duplicates: bool) -> Report:
    """Measure a context; raise PybuildError for what is not there."""
    context = open_context(directory, file or None)
    uses, why = None, "there is no Dockerfile"
    if context.dockerfile is not None:
        try:
            uses = context.uses(_arguments(build_args))
        except DockerfileError as error:
            # The sizes are worth knowing all the same
            place = f"{os.path.basename(str(context.dockerfile))}:{error.span.start_line}: " if error.span else ""
            why = f"{place}{error.message}"
    return measure(context, context.survey(uses), uses, why, duplicates=duplicates)


def _arguments(given: list[str]) -> dict[str, str | None]:
    arguments: dict[str, str | None] = {}
    for text in given:
        name, equals, value = text.partition("=")
        arguments[name] = value if equals else os.environ.get(name)
    return arguments


def _write(path: str, text: str) -> None:
    with new_file(Path(path)) as file:
        file.write(text.encode(errors="replace"))
