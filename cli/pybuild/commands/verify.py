"""`pybuild verify`: an image built once more and compared."""

import os
import sys
import time
from contextlib import closing
from typing import Annotated, Any

from pybuild.api.events import Built, Failed
from pybuild.api.request import BuildRequest
from pybuild.commands.option import Argument, Option
from pybuild.errors import ExitCode, PybuildError, UsageError

FIELDS = ("type", "mode", "owner", "size", "digest", "mtime", "xattr", "link", "device", "created", "config")
SHOWN = 60
"""Most characters of a value in the table."""


def verify(
    image: Annotated[str, Argument(help="The image.", metavar="IMAGE")],
    context: Annotated[
        str, Argument(help="A directory; without it the one that the image was built from.", metavar="CONTEXT")
    ] = "",
    file: Annotated[str, Option("-f", "--file", help="The Dockerfile.", metavar="FILE")] = "",
    build_arg: Annotated[
        list[str] | None, Option(help="Value for ARG, besides those the image was built with.", metavar="NAME=V")
    ] = None,
    target: Annotated[str, Option(help="Stage to build.", metavar="STAGE")] = "",
    platform: Annotated[str, Option(help="As of `pybuild build`.", metavar="OS/ARCH")] = "",
    secret: Annotated[list[str] | None, Option(help="As of `pybuild build`.", metavar="SPEC")] = None,
    ssh: Annotated[list[str] | None, Option(help="As of `pybuild build`.", metavar="SPEC")] = None,
    allow: Annotated[list[str] | None, Option(help="As of `pybuild build`.", metavar="NAME")] = None,
    ignore: Annotated[
        list[str] | None, Option(help=f"Do not compare: {', '.join(FIELDS)}.", metavar="FIELD,...")
    ] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
    progress: Annotated[str, Option(help="auto, tty, plain or json, of the build.", metavar="KIND")] = "auto",
    inline: Annotated[
        bool | None,
        Option("--inline/--no-inline", help="In this process, or in the daemon; the default is what is ready."),
    ] = None,
) -> int:
    """Build IMAGE again without the cache and tell each difference; the exit code is 1 if there is any.

    It is built from what the store remembers of the image, and what is given here. Nothing of it stays in the cache.
    """
    from pybuild.client import connect
    from pybuild.plugin.events import exit_code_of
    from pybuild.progress import open_renderer

    ignored = _ignored(ignore or ())
    with connect(inline=inline) as backend:
        known = backend.inputs(image)
        request = _request(image, known, context, file, target, platform, build_arg or (), secret, ssh, allow)
        if not json and progress != "json":
            for reference in known.get("changed_bases", ()):
                sys.stderr.write(f"warning: the base image is not the one it was built on: {reference}\n")
        started = time.time()
        last: Built | Failed | None = None
        with (
            closing(open_renderer("quiet" if json and progress == "auto" else progress, sys.stderr)) as renderer,
            closing(backend.build(request, None)) as events,
        ):
            for event in events:
                if isinstance(event, Built | Failed):
                    last = event
                renderer.show(event)
        if isinstance(last, Failed):
            return exit_code_of(last)
        if last is None:
            raise PybuildError("the build ended without a result")
        found = backend.compare(image, last.image_id)
        if found["image"] != last.image_id and _is_new(backend.inspect(last.image_id), started):
            backend.remove(last.image_id)
    if last.source_date_epoch is None:
        # Without a date for both, the moment of a build is no difference of its result
        ignored.add("created")
    left = [row for row in found["differences"] if _field(row) not in ignored]
    _tell(found, left, json=json)
    return ExitCode.FAILED if left else ExitCode.OK


def _is_new(image: dict[str, Any], started: float) -> bool:
    """Is an image there only because it was just built?"""
    from datetime import datetime

    moment = datetime.fromisoformat(image["Metadata"]["LastTagTime"])
    return not image["RepoTags"] and moment.timestamp() >= started


def _ignored(given: tuple[str, ...] | list[str]) -> set[str]:
    ignored = {name for item in given for name in item.split(",") if name}
    for name in sorted(ignored - {*FIELDS}):
        raise UsageError(f"unknown field to ignore: {name}", f"known: {', '.join(FIELDS)}")
    return ignored


def _field(row: dict[str, str]) -> str:
    """Return under what name a difference is ignored."""
    if row["path"]:
        return row["field"].partition(" ")[0]
    return "created" if row["field"].endswith("created") else "config"


def _request(
    image: str,
    known: dict[str, Any],
    context: str,
    file: str,
    target: str,
    platform: str,
    build_arg: list[str] | tuple[str, ...],
    secret: list[str] | None,
    ssh: list[str] | None,
    allow: list[str] | None,
) -> BuildRequest:
    """Return what is known of how the image was built, changed by what was given."""
    from pybuild.commands import flags, given

    request = BuildRequest.from_json(dict(known.get("request") or {}))
    if context:
        # What was recorded lay in the other context
        request = request._replace(context=_directory(context), dockerfile="", dockerfile_text=None)
    if file:
        if not os.path.isfile(file):
            raise UsageError(f"no such Dockerfile: {file}")
        request = request._replace(dockerfile=os.path.abspath(file), dockerfile_text=None)
    if not request.context:
        raise UsageError(
            f"it is not known what this image was built from: {image}",
            "name the CONTEXT, and give `-f`, `--target` and `--build-arg` as it was built with",
        )
    secrets = given.secrets(secret, os.environ) if secret else {}
    agents = given.agents(ssh, os.environ) if ssh else ()
    allowed = given.entitlements(allow) if allow else ()
    missing = [f"--secret id={name}" for name in known.get("secrets", ()) if name not in secrets]
    missing += [f"--ssh {name}" for name in known.get("ssh", ()) if name not in {agent.id for agent in agents}]
    missing += [f"--allow {name}" for name in known.get("allow", ()) if name not in allowed]
    if missing and known.get("request"):
        raise UsageError(f"the image was built with more than is given: {', '.join(missing)}", "give that too")
    return request._replace(
        build_args={**request.build_args, **_arguments(request, flags.build_args(build_arg, os.environ))},
        target=target or request.target,
        platform=platform or request.platform,
        secrets=secrets,
        ssh=agents,
        allow=allowed,
        no_cache=True,
        remembers=False,
    )


def _arguments(request: BuildRequest, given: dict[str, str | None]) -> dict[str, str | None]:
    """Return arguments from the command line; a date of the environment does not win over the image's own."""
    if "SOURCE_DATE_EPOCH" in request.build_args and given.get("SOURCE_DATE_EPOCH") == os.environ.get(
        "SOURCE_DATE_EPOCH"
    ):
        given.pop("SOURCE_DATE_EPOCH", None)
    return given


def _directory(context: str) -> str:
    if not os.path.isdir(context):
        raise UsageError(f"the context is no directory: {context}")
    return os.path.abspath(context)


def _tell(found: dict[str, Any], left: list[dict[str, str]], *, json: bool) -> None:
    from pybuild.commands.output import as_json, table, write_line

    if json:
        write_line(as_json({**found, "same": not left, "differences": left}))
        return
    if not left:
        same = "the same image" if found["image"] == found["rebuilt"] else "no difference in what was compared"
        write_line(f"Reproduced: {same}")
        return
    rows = [[_place(row), row["field"], _cut(row["image"]), _cut(row["rebuilt"])] for row in left]
    write_line("\n".join(table(("PATH", "FIELD", "IMAGE", "REBUILT"), rows)))
    if {_field(row) for row in left} <= {"mtime", "created"}:
        sys.stderr.write(
            "hint: only times differ: build with SOURCE_DATE_EPOCH and `-o ...,rewrite-timestamp=true`, or `--ignore "
            "mtime`\n"
        )


def _place(row: dict[str, str]) -> str:
    """Return where a difference is, with its platform where there are several."""
    return " ".join(filter(None, (row.get("platform", ""), row["path"] or "(config)")))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
