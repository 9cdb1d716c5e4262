"""What linters found, as text, JSON, SARIF or commands to a CI service."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pybuild.api.events import Checked, Finding
from pybuild.errors import UsageError

FORMATS = ("text", "json", "sarif", "github")

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class LintRule(NamedTuple):
    """A rule: `about` says in a line what it is against, `reason` why, and `example` what to write instead."""

    code: str
    about: str
    reason: str = ""
    example: str = ""
    url: str = ""


def findings_report(
    file: str, source: str, findings: Sequence[Finding], rules: Mapping[str, LintRule], form: str, tool: str = "pybuild"
) -> str:
    """Return findings about one file in one of FORMATS; raise UsageError for another.

    `source` is the text of the file, `rules` are by code, `tool` is who found them.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format: {form}", f"known: {', '.join(FORMATS)}")
    if form == "text":
        from pybuild.progress import in_ci
        from pybuild.progress.failure import checked_lines

        checked = Checked(file, source, tuple(findings), False, 0.0)
        return "\n".join(checked_lines(checked, {code: rule.url for code, rule in rules.items()}, ci=in_ci()))
    if form == "github":
        return "\n".join(_github(file, finding) for finding in findings)
    from pybuild.plugin.output import as_json

    values = _sarif(file, findings, rules, tool) if form == "sarif" else _plain(file, findings, rules)
    return as_json(values, indent=2)


def _plain(file: str, findings: Sequence[Finding], rules: Mapping[str, LintRule]) -> dict[str, Any]:
    return {
        "file": file,
        "findings": [
            {
                "code": finding.rule,
                "message": finding.message,
                "about": rules[finding.rule].about,
                "line": finding.line,
                "endLine": finding.end_line,
                "column": finding.column,
                "length": finding.length,
            }
            for finding in findings
        ],
    }


def _sarif(file: str, findings: Sequence[Finding], rules: Mapping[str, LintRule], tool: str) -> dict[str, Any]:
    codes = list(dict.fromkeys(finding.rule for finding in findings))
    told = [
        {
            "id": code,
            "shortDescription": {"text": rules[code].about},
            **({"fullDescription": {"text": rules[code].reason}} if rules[code].reason else {}),
            **({"helpUri": rules[code].url} if rules[code].url else {}),
            "defaultConfiguration": {"level": "warning"},
        }
        for code in codes
    ]
    results = [
        sarif_result(file, one.rule, codes.index(one.rule), "warning", one.message, sarif_region(one))
        for one in findings
    ]
    return sarif_log(tool, told, results)


def _github(file: str, finding: Finding) -> str:
    place: dict[str, object] = {"file": file}
    if finding.line:
        place.update({"line": finding.line, "endLine": finding.end_line})
    if finding.column and finding.mark_line == finding.line == finding.end_line:
        place.update({"col": finding.column, "endColumn": finding.column + finding.length})
    return github_command("warning", {**place, "title": finding.rule}, finding.message)


def sarif_log(tool: str, rules: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a log of SARIF 2.1.0 (OASIS) of one run."""
    from pybuild import __version__

    driver = {"name": tool, "version": __version__, "rules": list(rules)}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": list(results)}
    return {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def sarif_region(finding: Finding) -> dict[str, int]:
    """Return where a finding is, empty for a file as a whole."""
    if not finding.line:
        return {}
    if not finding.column:
        return {"startLine": finding.line, "endLine": finding.end_line}
    end = finding.column + finding.length
    return {"startLine": finding.mark_line, "startColumn": finding.column, "endColumn": end}


def sarif_result(file: str, rule: str, index: int, level: str, message: str, region: dict[str, int]) -> dict[str, Any]:
    """Return a result of SARIF; an empty region is the whole file."""
    from urllib.parse import quote

    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(file)}}
    if region:
        physical["region"] = region
    return {
        "ruleId": rule,
        "ruleIndex": index,
        "level": level,
        "message": {"text": message},
        "locations": [{"physicalLocation": physical}],
    }


def github_command(kind: str, properties: dict[str, object], message: str) -> str:
    """Return a workflow command (GitHub Actions)."""
    told = ",".join(f"{name}={_encoded(str(value), property=True)}" for name, value in properties.items())
    return f"::{kind} {told}::{_encoded(message)}"


def _encoded(text: str, *, property: bool = False) -> str:
    """Return text in which nothing can end the command or begin another."""
    from pybuild.progress.escape import escape

    text = escape(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text
