"""`pybuild push`"""

from typing import Annotated

from pybuild.plugin import (
    Argument,
    ExitCode,
    Failed,
    InsecureRegistries,
    Option,
    ProgressKind,
    Pushed,
    as_json,
    exit_code_of,
    push_images,
    show_events,
    write_line,
)


def push(
    name: Annotated[list[str], Argument(help="Images by name; the name says where they go.", metavar="NAME...")],
    all_tags: Annotated[bool, Option("-a", "--all-tags", help="All tags of the repositories NAME.")] = False,
    compression: Annotated[
        str, Option(help="gzip, zstd or none; without it gzip, or the form that is here.", metavar="KIND")
    ] = "",
    compression_level: Annotated[str, Option(help="Of layers that are not compressed yet.", metavar="N")] = "",
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print nothing but digests.")] = False,
    json: Annotated[bool, Option("--json", help="Print what was pushed as JSON, one object a line.")] = False,
    progress: ProgressKind = "auto",
    insecure_registry: InsecureRegistries = None,
) -> int:
    """Bring images to their registries; what is there already is not sent again.

    A name whose image is for one platform stands for that alone afterwards, as with docker: where it was pulled out of
    an index, and that is there still, a warning tells the digest of the index.
    """
    events = push_images(
        name,
        all_tags=all_tags,
        compression=compression,
        compression_level=compression_level,
        insecure_registries=insecure_registry or (),
    )
    last = show_events(events, progress, quiet=quiet)
    if isinstance(last, Failed):
        return exit_code_of(last)
    assert isinstance(last, Pushed)
    for image in last.images:
        if json:
            write_line(as_json(image._asdict()))
        else:
            write_line(image.digest if quiet else f"{image.name}@{image.digest}")
    return ExitCode.OK
