"""What the frontend is asked instead of a build: checks, targets, an outline (BuildKit's subrequests). Pure.

Answers are metadata of a result: `result.json` for programs, `result.txt` for people. Names of fields are those of
BuildKit's `frontend/subrequests`.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pybuild.api.events import Checked
from pybuild.buildkit import messages
from pybuild.buildkit.grpc import Code, GrpcError
from pybuild.checks.rules import RULES
from pybuild.dockerfile.errors import InvalidValueError, Span
from pybuild.dockerfile.instructions import Arg, Copy, From, Located, Run
from pybuild.dockerfile.mounts import Mount, MountType, parse_mount
from pybuild.dockerfile.parse import Dockerfile, Stage
from pybuild.errors import UsageError

LINT, OUTLINE, TARGETS = "frontend.lint", "frontend.outline", "frontend.targets"
DESCRIBE = "frontend.subrequests.describe"
KNOWN = {
    LINT: "Lint Dockerfile",
    OUTLINE: "List all parameters current build target supports",
    TARGETS: "List all targets current build supports",
    DESCRIBE: "List available subrequest types",
}
"""What can be asked, and what that is."""

_VERSION = "1.0.0"
_SUBREQUEST = "github.com/moby/buildkit/errdefs.Subrequest+json"


def check(name: str) -> None:
    """Raise GrpcError for what cannot be asked; clients look at its detail."""
    if name and name not in KNOWN:
        message = f"unsupported request {name}"
        detail = {"type_url": _SUBREQUEST, "value": json.dumps({"name": name}).encode()}
        status = {"code": int(Code.UNIMPLEMENTED), "message": message, "details": [detail]}
        raise GrpcError(Code.UNIMPLEMENTED, message, messages.STATUS.encode(status))


def described() -> dict[str, bytes]:
    """Answer what can be asked."""
    rows = [
        {"name": name, "version": _VERSION, "type": "rpc", "description": about, "opts": None, "metadata": _FIELDS}
        for name, about in KNOWN.items()
    ]
    return _answer(rows, _table([("NAME", "VERSION", "DESCRIPTION"), *((n, _VERSION, a) for n, a in KNOWN.items())]))


_FIELDS = [{"name": "result.json"}, {"name": "result.txt"}]


def linted(checked: Checked) -> dict[str, bytes]:
    """Answer what the checks found."""
    data = checked.source.encode(errors="surrogateescape")
    result: dict[str, Any] = {
        "warnings": [
            {
                "ruleName": finding.rule,
                "description": RULES[finding.rule].about,
                "url": RULES[finding.rule].url,
                "detail": finding.message,
                "location": _lines(finding.line, finding.end_line),
            }
            for finding in checked.findings
        ],
        "sources": [
            {"filename": checked.file, "language": "Dockerfile", "data": base64.b64encode(data).decode()},
        ],
    }
    text = [f"{checked.file}:{finding.line}: {finding.rule}: {finding.message}" for finding in checked.findings]
    if checked.failure is not None:
        failure = checked.failure
        result["buildError"] = {"message": failure.message, "location": _lines(failure.line, failure.line)}
        text.append(f"{checked.file}:{failure.line}: {failure.message}")
    bad = checked.failure is not None or (bool(checked.findings) and checked.as_errors)
    return {**_answer(result, "\n".join(text) + "\n" * bool(text)), "result.statuscode": b"1" if bad else b"0"}


def targets(dockerfile: Dockerfile) -> dict[str, bytes]:
    """Answer which stages can be built."""
    last = dockerfile.stages[-1].index
    rows = [
        _filled(
            {
                "name": stage.name or "",
                "default": stage.index == last,
                "description": _described(stage.from_, stage.name or ""),
                "base": stage.from_.reference,
                "platform": stage.from_.platform or "",
                "location": _location(stage.from_.span),
            }
        )
        for stage in dockerfile.stages
    ]
    shown = [
        (f"{row.get('name', '')}{' (default)' if row.get('default') else ''}".strip(), str(row.get("description", "")))
        for row in rows
    ]
    return _answer({"targets": rows, "sources": [_source(dockerfile)]}, _table([("TARGET", "DESCRIPTION"), *shown]))


def outline(dockerfile: Dockerfile, target: str, given: Mapping[str, str | None]) -> dict[str, bytes]:
    """Answer which arguments, secrets, agents and caches the build of a target takes; raise UsageError."""
    stages = _needed(dockerfile, target)
    top = stages[0]
    args: dict[str, dict[str, Any]] = {}
    for arg in [*dockerfile.args, *(item for stage in stages[::-1] for item in stage.instructions)]:
        if isinstance(arg, Arg):
            for name, default in arg.args:
                about = {"name": name, "description": _described(arg, name), "location": _location(arg.span)}
                value = given.get(name)
                about["value"] = value if value is not None else default or args.get(name, {}).get("value", "")
                args[name] = _filled(about)
    mounts = [*_mounts(stages[::-1])]
    result: dict[str, Any] = {
        "name": top.name or "",
        "description": _described(top.from_, top.name or ""),
        "args": [*args.values()],
        "secrets": _by_name(mounts, MountType.SECRET),
        "ssh": _by_name(mounts, MountType.SSH),
        "cache": [{"ID": name} for name in dict.fromkeys(_id(m) for m, _ in mounts if m.type == MountType.CACHE)],
        "sources": [_source(dockerfile)],
    }
    parts = [f"TARGET: {top.name}\n"] if top.name else []
    if args:
        rows = [(name, str(arg.get("value", "")), str(arg.get("description", ""))) for name, arg in args.items()]
        parts.append(_table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows]))
    for title, key in (("SECRET", "secrets"), ("SSH", "ssh")):
        if found := result[key]:
            rows2 = [(str(row["name"]), "true" if row.get("required") else "") for row in found]
            parts.append(_table([(title, "REQUIRED"), *rows2]))
    return _answer(_filled(result), "\n".join(parts))


def _needed(dockerfile: Dockerfile, target: str) -> list[Stage]:
    """Return the stage of a target and those it is made from, each before those it needs; raise UsageError."""
    by_name = {stage.name.lower(): stage for stage in dockerfile.stages if stage.name}
    found = by_name.get(target.lower()) if target else dockerfile.stages[-1]
    if found is None and target.isascii() and target.isdigit() and int(target) < len(dockerfile.stages):
        found = dockerfile.stages[int(target)]
    if found is None:
        raise UsageError(f"target stage could not be found: {target}")
    order: dict[int, Stage] = {}
    pending = [found]
    while pending:
        stage = pending.pop()
        if stage.index in order:
            continue
        order[stage.index] = stage
        for name in _read_by(stage):
            other = by_name.get(name.lower())
            if other is None and name.isascii() and name.isdigit() and int(name) < stage.index:
                other = dockerfile.stages[int(name)]
            if other is not None and other.index < stage.index:
                pending.append(other)
    return [found, *sorted((stage for stage in order.values() if stage is not found), key=lambda s: -s.index)]


def _read_by(stage: Stage) -> Iterable[str]:
    yield stage.from_.reference
    for instruction in stage.instructions:
        if isinstance(instruction, Copy) and instruction.from_:
            yield instruction.from_
    for mount, _ in _mounts([stage]):
        if mount.from_:
            yield mount.from_


def _mounts(stages: Iterable[Stage]) -> Iterable[tuple[Mount, Run]]:
    for stage in stages:
        for instruction in stage.instructions:
            if isinstance(instruction, Run):
                for text in instruction.mounts:
                    try:
                        yield parse_mount(text), instruction
                    except InvalidValueError:
                        # One whose values are variables is known when it is built
                        continue


def _by_name(mounts: Iterable[tuple[Mount, Run]], kind: MountType) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for mount, run in mounts:
        if mount.type == kind:
            row = found.setdefault(_id(mount), {"name": _id(mount), "location": _location(run.span)})
            if mount.required:
                row["required"] = True
    return [*found.values()]


def _id(mount: Mount) -> str:
    if mount.id:
        return mount.id
    if mount.type == MountType.SSH:
        return "default"
    return mount.target.rpartition("/")[2] if mount.type == MountType.SECRET else mount.target


def _described(instruction: Located | From, name: str) -> str:
    """Return what the comment above says of a name that it begins with."""
    for comment in instruction.comments[-1:]:
        first, _, rest = comment.strip().lstrip("#").strip().partition(" ")
        if name and first == name:
            return rest.strip()
    return ""


def _location(span: Span) -> dict[str, Any]:
    return _lines(span.start_line, span.end_line)


def _lines(first: int, last: int) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": first}, "end": {"line": last}}] if first else []}


def _source(dockerfile: Dockerfile) -> str:
    return base64.b64encode(dockerfile.text.encode(errors="surrogateescape")).decode()


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value not in ("", False, [], None)}


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _answer(result: Any, text: str) -> dict[str, bytes]:
    return {
        "result.json": json.dumps(result, indent=2).encode(),
        "result.txt": text.encode("utf-8", "replace"),
        "version": _VERSION.encode(),
    }
