"""Failures and findings as lines of text: where, what, the source with a caret, what to try. The only place that does
it.

Dockerfile:7:6: unknown flag `--frm`
  COPY --frm=builder /out /bin
       ^^^^^
hint: did you mean `--from`?
"""

from collections.abc import Sequence

from pybuild.api.events import Built, Checked, Failure, Finding, Notice
from pybuild.progress.escape import escape, one_line, without_commands

_SOURCE_LINES = 12


def failure_lines(failure: Failure, *, ci: bool = False, debug: bool = False) -> list[str]:
    """Return the lines that tell `failure`; with `debug` its traceback comes first."""
    lines: list[str] = []
    if debug and failure.traceback:
        lines += escape(failure.traceback).rstrip("\n").split("\n")
    if failure.log:
        lines.append(f"last {len(failure.log)} lines of output:" if len(failure.log) > 1 else "output:")
        lines += [f"  | {one_line(line)}" for line in failure.log]
    message = one_line(failure.message)
    if failure.status >= 0 and str(failure.status) not in message:
        message += f": exit code {failure.status}"
    lines.append(f"{_place(failure)}: {message}" if failure.file else f"error: {message}")
    lines += _source(failure)
    if failure.hint:
        lines.append(f"hint: {one_line(failure.hint)}")
    if failure.kept:
        lines.append(f"its tree is kept: `pybuild shell {one_line(failure.kept)}` enters it")
    return [without_commands(line) for line in lines] if ci else lines


def built_line(built: Built) -> str:
    """Return the line that tells what a build has made."""
    made_for = f" for {', '.join(built.platforms)}" if built.platforms else ""
    return f"built {built.image_id}{made_for}"


def finding_lines(findings: Sequence[Notice]) -> list[str]:
    """Return what a build says of its checks at the end: a line for each, without the source."""
    if not findings:
        return []
    count = "1 warning" if len(findings) == 1 else f"{len(findings)} warnings"
    lines = [f"{count} found (`pybuild build --check` shows the places):"]
    return lines + [
        f" - {one_line(finding.rule)}: {one_line(finding.message)} (line {finding.line})" for finding in findings
    ]


def checked_lines(checked: Checked, about: dict[str, str], *, ci: bool = False) -> list[str]:
    """Return all that a check of the file told, with the places; `about` is where each rule is described."""
    source = checked.source.split("\n")
    lines: list[str] = []
    for finding in checked.findings:
        place = f"{one_line(checked.file)}:{finding.line}" if finding.line else one_line(checked.file)
        if finding.column and finding.mark_line == finding.line:
            place += f":{finding.column}"
        lines.append(f"{place}: warning: {one_line(finding.message)} [{one_line(finding.rule)}]")
        lines += _finding_source(finding, [line.rstrip("\r") for line in source])
        if about.get(finding.rule):
            lines.append(f"see {about[finding.rule]}")
        lines.append("")
    if checked.failure is not None:
        lines += [*failure_lines(checked.failure), ""]
    count = len(checked.findings)
    found = {0: "no warnings", 1: "1 warning"}.get(count, f"{count} warnings")
    lines.append(f"{found} found" + (", and an error" if checked.failure is not None else ""))
    return [without_commands(line) for line in lines] if ci else lines


def _finding_source(finding: Finding, source: list[str]) -> list[str]:
    if not finding.line:
        # About the file as a whole
        return []
    shown = source[finding.line - 1 : min(finding.end_line, finding.line - 1 + _SOURCE_LINES)]
    if not any(line.strip() for line in shown):
        return []
    lines = [f"  {escape(line)}" for line in shown]
    if finding.end_line - finding.line >= _SOURCE_LINES:
        lines.append("  ...")
    below = finding.mark_line - finding.line + 1
    if finding.column and below <= len(shown):
        lines.insert(below, _caret(source[finding.mark_line - 1], finding.column, finding.length))
    return lines


def _place(failure: Failure) -> str:
    place = one_line(failure.file)
    if failure.line:
        place += f":{failure.line}"
        if failure.column:
            place += f":{failure.column}"
    return place


def _source(failure: Failure) -> list[str]:
    if not failure.source:
        return []
    source = failure.source.rstrip("\n").split("\n")
    lines = [f"  {escape(line)}" for line in source[:_SOURCE_LINES]]
    if len(source) > _SOURCE_LINES:
        lines.append("  ...")
    if failure.column and failure.length:
        lines.insert(1, _caret(source[0], failure.column, failure.length))
    return lines


def _caret(line: str, column: int, length: int) -> str:
    # Escapes may widen the text before the caret; a tab must stay a tab to line up
    before = escape(line[: column - 1])
    padding = "".join("\t" if char == "\t" else " " for char in before)
    marked = escape(line[column - 1 : column - 1 + length])
    return f"  {padding}{'^' * max(1, len(marked))}"
