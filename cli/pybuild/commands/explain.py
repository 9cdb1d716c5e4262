"""`pybuild explain`"""

from time import time
from typing import Annotated, Any

from pybuild.client import connect
from pybuild.commands.option import Option
from pybuild.commands.output import as_json, short_id, write_line, write_rows
from pybuild.errors import UsageError
from pybuild.progress.amounts import human_bytes, human_duration
from pybuild.progress.escape import one_line

HEADERS = {
    "ID": "BUILD",
    "Created": "CREATED",
    "State": "STATE",
    "Missed": "NOT CACHED",
    "File": "DOCKERFILE",
    "Context": "CONTEXT",
    "Tags": "TAGS",
}

_WORDS = {"file": "", "directory": "", "arg": "ARG", "env": "ENV", "base": "base image", "layer": "layer of"}


def explain(
    build: Annotated[str, Option(help="An id, or the beginning of one; the last build otherwise.", metavar="ID")] = "",
    list_: Annotated[bool, Option("--list", help="List the builds that can be explained.")] = False,
    json: Annotated[bool, Option("--json", help="Print JSON: one object, with --list one a line.")] = False,
) -> None:
    """Tell why steps of a build were not cached.

    Of each such step it shows which parts of its cache key are others than those of the nearest earlier result: files
    with digest and size, ARG and ENV, the base image, the layers below, the instruction, mounts and settings.
    """
    if list_ and build:
        raise UsageError("--list and --build exclude each other")
    with connect() as backend:
        if list_:
            found = backend.builds()
        else:
            told = backend.explain(build)
    if list_ and json:
        write_rows(found, "json", HEADERS, [])
    elif list_:
        write_rows([_row(item) for item in found], "", HEADERS, list(HEADERS))
    elif json:
        write_line(as_json(told, indent=2))
    else:
        write_line("\n".join(lines_of(told)))


def _row(build: dict[str, Any]) -> dict[str, str]:
    return {
        "ID": build["id"],
        "Created": _ago(build["time"]),
        "State": build["state"],
        "Missed": f"{build['missed']} of {build['total']}",
        "File": build["file"],
        "Context": build["context"],
        "Tags": ", ".join(build["tags"]),
    }


def lines_of(build: dict[str, Any]) -> list[str]:
    """Return what is told of a build to people."""
    ended = f"built {short_id(build['image'])}" if build["image"] else f"{build['state']}: {one_line(build['error'])}"
    target = f", target {one_line(build['target'])}" if build["target"] else ""
    lines = [
        f"build {build['id']} of {one_line(build['file'])} in {one_line(build['context'])}{target}, "
        f"{_ago(build['time'])}: {ended}"
    ]
    steps = build["steps"]
    missed = [step for step in steps if step["reason"]]
    never = build["total"] - build["cached"] - len(missed)
    count = f"{build['cached']} of {build['total']} steps were cached"
    lines.append(count + (f", {never} not come to" if never else ""))
    for step in missed:
        lines += ["", f"{one_line(step['label'])} (line {step['line']})", *_step(step)]
    return lines


def _step(step: dict[str, Any]) -> list[str]:
    state = {"failed": "failed; ", "unfinished": "unfinished; "}.get(step["state"], "")
    lines = [f"  {state}not cached: {one_line(step['reason'])}"]
    if not step["changes"]:
        return lines
    lines.append(f"  compared with the result of {_ago(step['against'])}:")
    named = [(_name(change), change) for change in step["changes"]]
    width = min(40, max(len(name) for name, _ in named))
    lines += [f"    {name.ljust(width)}  {_values(change)}" for name, change in named]
    if step["more"]:
        lines.append(f"    and {step['more']} more")
    return lines


def _name(change: dict[str, Any]) -> str:
    return one_line(f"{_WORDS.get(change['part'], change['part'])} {change.get('name', '')}".strip())


def _values(change: dict[str, Any]) -> str:
    old, new = _value(change, "old"), _value(change, "new")
    if not change.get("old"):
        return f"new: {new}"
    return f"{old} -> {new}" if change.get("new") else f"gone, was {old}"


def _value(change: dict[str, Any], which: str) -> str:
    value = one_line(str(change.get(which, "")))
    size = change.get(f"{which}_size", -1)
    if value.startswith("sha256:"):
        value = value[:19]
    return f"{value} ({human_bytes(size, 3)})" if size >= 0 else value


def _ago(moment: float) -> str:
    return f"{human_duration(max(0.0, time() - moment))} ago".lower()
