"""`pybuild build --check`: what was found as text, JSON, SARIF, or commands to a CI service."""

import sys
from typing import Any, BinaryIO

from pybuild.api.events import Checked, Failed, Failure
from pybuild.api.request import BuildRequest
from pybuild.errors import ExitCode, PybuildError, UsageError
from pybuild.plugin.findings import FORMATS, github_command, sarif_log, sarif_region, sarif_result

CALLS = ("build", "check")

_ERROR_RULE = "BuildError"
"""What a SARIF report names as the rule of an error that ends the build."""


def form_of(check: bool, call: str, form: str) -> str:
    """Return the format in which to report a check, "" when it is a build that is asked for; raise UsageError."""
    kind, *attributes = call.split(",") if call else ["check" if check else "build"]
    if kind == "lint":
        # An older name of docker's for the same
        kind = "check"
    if kind not in CALLS:
        raise UsageError(f"unknown method for --call: {kind}", f"known: {', '.join(CALLS)}")
    for attribute in attributes:
        name, _, value = attribute.partition("=")
        if name != "format":
            raise UsageError(f"--call is METHOD[,format=FORMAT], not: {call}")
        form = form or value
    if kind == "build" and check:
        raise UsageError("--check and --call=build exclude each other")
    if form and kind == "build":
        raise UsageError("--format is for --check")
    if form and form not in FORMATS:
        raise UsageError(f"unknown format for --check: {form}", f"known: {', '.join(FORMATS)}")
    return "" if kind == "build" else form or "text"


def check(request: BuildRequest, context: BinaryIO | None, *, inline: bool | None, form: str) -> int:
    """Ask for the checks and write what they found; return the exit status."""
    from contextlib import closing

    from pybuild.client import connect

    last: Checked | Failed | None = None
    with connect(inline=inline) as backend, closing(backend.build(request, context)) as events:
        for event in events:
            if isinstance(event, Checked | Failed):
                last = event
    if isinstance(last, Failed):
        from pybuild.plugin.events import exit_code_of
        from pybuild.progress import open_renderer

        with closing(open_renderer("quiet", sys.stderr)) as renderer:
            renderer.show(last)
        return exit_code_of(last)
    if last is None:
        raise PybuildError("the check ended without a result")
    if form in ("sarif", "github"):
        last = last._replace(file=_from_here(request, last.file))
    told = report(last, form)
    if told:
        from pybuild.commands.output import write_line

        write_line(told)
    return ExitCode.FAILED if last.findings or last.failure is not None else ExitCode.OK


def _from_here(request: BuildRequest, file: str) -> str:
    """Return the Dockerfile's path as seen from where we are: other programs know no context."""
    import os

    if not request.context or request.dockerfile_text is not None:
        return file
    path = request.dockerfile or os.path.join(request.context, file)
    here = os.path.relpath(path)
    return path if here.startswith("..") else here


def report(checked: Checked, form: str) -> str:
    """Return what a check told in one of FORMATS."""
    from pybuild.commands.output import as_json

    if form == "json":
        return as_json(as_docker(checked), indent=2)
    if form == "sarif":
        return as_json(as_sarif(checked), indent=2)
    if form == "github":
        return "\n".join(_github(checked))
    from pybuild.checks.rules import RULES
    from pybuild.progress import in_ci
    from pybuild.progress.failure import checked_lines

    return "\n".join(checked_lines(checked, {name: rule.url for name, rule in RULES.items()}, ci=in_ci()))


def as_docker(checked: Checked) -> dict[str, Any]:
    """Return the object that `docker build --call=check,format=json` prints; what is only ours is in `pybuild`."""
    from base64 import b64encode

    from pybuild.checks.rules import RULES

    result: dict[str, Any] = {
        "warnings": [
            {
                "ruleName": finding.rule,
                "description": RULES[finding.rule].about,
                **({"url": RULES[finding.rule].url} if RULES[finding.rule].url else {}),
                "detail": finding.message,
                "location": _location(finding.line, finding.end_line),
                "pybuild": {"line": finding.mark_line, "column": finding.column, "length": finding.length},
            }
            for finding in checked.findings
        ],
        "sources": [
            {
                "fileName": checked.file,
                "language": "Dockerfile",
                "definition": None,
                "data": b64encode(checked.source.encode(errors="surrogateescape")).decode(),
            }
        ],
    }
    if checked.failure is not None:
        failure = checked.failure
        message = f"{failure.message} ({failure.hint})" if failure.hint else failure.message
        result["buildError"] = {"message": message, "location": _location(failure.line, failure.line)}
    return result


def _location(line: int, end_line: int) -> dict[str, Any]:
    ranges = [{"start": {"line": line}, "end": {"line": end_line}}] if line else []
    return {"ranges": ranges}


def as_sarif(checked: Checked) -> dict[str, Any]:
    """Return a log of SARIF 2.1.0 (OASIS): one run, a rule for each that spoke, a result for each finding."""
    from pybuild.checks.rules import RULES

    names = list(dict.fromkeys(finding.rule for finding in checked.findings))
    rules: list[dict[str, Any]] = [
        {
            "id": name,
            "name": name,
            "shortDescription": {"text": RULES[name].about},
            "defaultConfiguration": {"level": "warning"},
            **({"helpUri": RULES[name].url} if RULES[name].url else {}),
        }
        for name in names
    ]
    level = "error" if checked.as_errors else "warning"
    results = [
        sarif_result(
            checked.file, finding.rule, names.index(finding.rule), level, finding.message, sarif_region(finding)
        )
        for finding in checked.findings
    ]
    failure = checked.failure
    if failure is not None:
        about = {"text": "A build of this file would fail"}
        rules.append({"id": _ERROR_RULE, "shortDescription": about, "defaultConfiguration": {"level": "error"}})
        region = {"startLine": failure.line} if failure.line else {}
        results.append(sarif_result(checked.file, _ERROR_RULE, len(names), "error", failure.message, region))
    return sarif_log("pybuild", rules, results)


def _github(checked: Checked) -> list[str]:
    """Return workflow commands (GitHub Actions): one a line."""
    kind = "error" if checked.as_errors else "warning"
    lines = []
    for finding in checked.findings:
        place = {"file": checked.file, "line": finding.line, "endLine": finding.end_line}
        if finding.column and finding.mark_line == finding.line == finding.end_line:
            place.update({"col": finding.column, "endColumn": finding.column + finding.length})
        lines.append(github_command(kind, {**place, "title": finding.rule}, finding.message))
    if checked.failure is not None:
        lines.append(_failuregithub_command(checked.file, checked.failure))
    return lines


def _failuregithub_command(file: str, failure: Failure) -> str:
    place: dict[str, object] = {"file": file}
    if failure.line:
        place["line"] = failure.line
        if failure.column:
            place["col"] = failure.column
    return github_command("error", place, failure.message)
