"""Linters of other distributions (`pybuild.linters`): each runs in a process of its own, values go over pipes.

One is a function that takes a parsed Dockerfile and returns findings. It is given the file's name and text as JSON on
standard input and answers with JSON; what it prints goes to standard error. One that fails, or takes too long, is told
in a line and the others are heard.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

from pybuild.api.events import Finding
from pybuild.plugin.errors import PluginError
from pybuild.plugin.findings import LintRule
from pybuild.plugin.found import LINTER, Found, usable

SECONDS = 30.0
"""How long one may take."""

MOST = 10_000
"""So many findings of one are taken."""

_MAX_ANSWER = 16 << 20  # bytes


def run_linters(source: str, file: str) -> tuple[list[Finding], dict[str, LintRule], list[PluginError]]:
    """Let all linters look at a Dockerfile at once; return what they found, their rules, and which failed."""
    import json
    import subprocess
    import time

    from pybuild.plugin.processes import child_command

    plugins = [plugin for plugin in usable((LINTER,)).values() if plugin.problem != "disabled"]
    broken = [PluginError(plugin, f"cannot be used: {plugin.problem}") for plugin in plugins if plugin.problem]
    question = json.dumps({"file": file, "source": source}).encode()
    started = [
        (
            plugin,
            subprocess.Popen(
                child_command("lint", plugin.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            ),
        )
        for plugin in plugins
        if not plugin.problem
    ]
    end = time.monotonic() + SECONDS
    found: list[Finding] = []
    rules: dict[str, LintRule] = {}
    for plugin, process in started:
        try:
            answer = _answer(plugin, process, question, end)
        except PluginError as error:
            broken.append(error)
            continue
        found += answer
        rules |= {finding.rule: LintRule(finding.rule, plugin.summary or plugin.name) for finding in answer}
    return found, rules, broken


def has_linters() -> bool:
    """Tell whether there is any linter that could speak."""
    return any(not plugin.problem for plugin in usable((LINTER,)).values())


def _answer(plugin: Found, process: Any, question: bytes, end: float) -> list[Finding]:
    import json
    import signal
    import subprocess
    import time

    try:
        out, _ = process.communicate(question, timeout=max(0.01, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
        raise PluginError(plugin, f"took longer than {SECONDS:g} s") from None
    try:
        answer = json.loads(out[:_MAX_ANSWER])
        if "error" in answer:
            raise PluginError(plugin, f"has failed: {answer['error']}")
        return [_finding(row) for row in answer["findings"][:MOST]]
    except (ValueError, KeyError, TypeError) as error:
        raise PluginError(plugin, f"has ended without an answer (exit code {process.returncode})") from error


def _finding(row: Sequence[Any]) -> Finding:
    rule, message, *numbers = row
    if not (isinstance(rule, str) and isinstance(message, str) and all(isinstance(one, int) for one in numbers)):
        raise TypeError("a finding is two texts and five numbers")
    return Finding(rule, message, *numbers)


def answer(lint: Any, given: BinaryIO) -> dict[str, Any]:
    """Let a linter look at what it is given."""
    import json

    from pybuild.dockerfile.parse import parse

    question = json.loads(given.read())
    lines = question["source"].count("\n") + 1
    told: Iterable[Finding] = lint(parse(question["source"], name=question["file"]))
    return {"findings": [[*_placed(finding, lines)] for finding in told]}


def _placed(finding: Finding, lines: int) -> Finding:
    """Return a finding whose place is in the file."""
    first = min(max(1, int(finding.line)), lines)
    last = min(max(first, int(finding.end_line)), lines)
    mark = min(max(first, int(finding.mark_line)), last)
    return Finding(str(finding.rule), str(finding.message), first, last, mark, finding.column, finding.length)
