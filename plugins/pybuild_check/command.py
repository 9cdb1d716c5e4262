"""`pybuild check`"""

import os
import sys
from collections.abc import Iterator
from typing import Annotated

from pybuild.plugin import (
    FORMATS,
    Argument,
    DockerfileError,
    ExitCode,
    Finding,
    LintRule,
    Option,
    UsageError,
    build_check_rules,
    check_dockerfile,
    findings_report,
    has_linters,
    one_line,
    parse_dockerfile,
    run_linters,
    write_line,
)
from pybuild_check.rules import STYLES
from pybuild_check.style import look

_FAILURE = LintRule("BuildError", "A build of this file would fail")


def check(
    file: Annotated[
        str, Argument(help="A Dockerfile, a directory with one, or - for standard input.", metavar="[FILE]")
    ] = "Dockerfile",
    context: Annotated[str, Option("-C", "--context", help="What it builds from (its directory).", metavar="DIR")] = "",
    form: Annotated[str, Option("--format", help="text, json, sarif or github.", metavar="FORMAT")] = "text",
    skip: Annotated[list[str] | None, Option("--skip", help="Leave a rule out.", metavar="RULE")] = None,
    strict: Annotated[bool, Option("--strict", help="Also rules that many find too strict.")] = False,
    style: Annotated[bool, Option("--style/--no-style", help="Also rules of style, not of the language alone.")] = True,
    plugins: Annotated[bool, Option("--plugins/--no-plugins", help="Also the linters of plugins (yes).")] = True,
    build_arg: Annotated[list[str] | None, Option("--build-arg", help="As for a build.", metavar="NAME=VALUE")] = None,
    target: Annotated[str, Option("--target", help="Check what this stage needs.", metavar="STAGE")] = "",
    explain: Annotated[str, Option("--explain", help="Tell about a rule, or about all.", metavar="RULE|all")] = "",
) -> int:
    """Find mistakes in a Dockerfile and what could be better; nothing is built. Exit code 1 if there is anything.

    A comment `# check=skip=RULE` above an instruction, or at the top of the file, leaves a rule out, and so does
    hadolint's `# hadolint ignore=CODE`.
    """
    rules = {**build_check_rules(), **{name: style.rule for name, style in STYLES.items()}, _FAILURE.code: _FAILURE}
    if explain:
        write_line("\n\n".join(explained(rules, explain)))
        return ExitCode.OK
    if form not in FORMATS:
        raise UsageError(f"unknown format: {form}", f"known: {', '.join(FORMATS)}")
    left_out = _names(skip or [], rules)
    name, text = _file(file)
    checked = check_dockerfile(
        name,
        context or (os.getcwd() if text is not None else ""),
        text=text,
        build_args=_arguments(build_arg or []),
        target=target,
    )
    found = [finding for finding in checked.findings if finding.rule not in left_out]
    if style:
        found += _style(checked.source, name, left_out, strict=strict)
    failed = False
    if checked.failure is None and plugins:
        others, theirs, broken = run_linters(checked.source, name)
        found += [finding for finding in others if finding.rule not in left_out]
        rules = {**theirs, **rules}
        for error in broken:
            failed = True
            sys.stderr.write(f"warning: {one_line(error.message)}\n")
    if checked.failure is not None:
        failure = checked.failure
        line = failure.line or 1
        message = f"{failure.message} ({failure.hint})" if failure.hint else failure.message
        found.append(Finding(_FAILURE.code, message, line, line, line, failure.column, failure.length))
    found.sort(key=lambda finding: finding.line)
    told = findings_report(_shown(name) if text is None else "-", checked.source, found, rules, form)
    if told:
        write_line(told)
    return ExitCode.PLUGIN if failed else ExitCode.FAILED if found else ExitCode.OK


def _style(source: str, name: str, left_out: set[str], *, strict: bool) -> list[Finding]:
    try:
        return look(parse_dockerfile(source, name), strict=strict, skip=left_out)
    except DockerfileError:
        # The build checks have told it
        return []


def _file(file: str) -> tuple[str, str | None]:
    if file == "-":
        return "Dockerfile", sys.stdin.buffer.read(16 << 20).decode(errors="surrogateescape")
    return (os.path.join(file, "Dockerfile") if os.path.isdir(file) else file), None


def _shown(name: str) -> str:
    here = os.path.relpath(name)
    return name if here.startswith("..") else here


def _names(skip: list[str], rules: dict[str, LintRule]) -> set[str]:
    """Return the names of rules; codes of hadolint are known too."""
    names: set[str] = set()
    for given in skip:
        same = {name for name, style in STYLES.items() if given.upper() in style.hadolint}
        # What the rules of other linters are is known when they speak
        if given not in rules and not same and not has_linters():
            raise UsageError(f"no such rule: {given}", "`pybuild check --explain all` lists them")
        names |= same or {given}
    return names


def explained(rules: dict[str, LintRule], name: str) -> Iterator[str]:
    """Yield what there is to know of a rule, or of all; raise UsageError."""
    named = list(rules) if name == "all" else sorted(_names([name], rules))
    for code in named:
        rule = rules[code]
        style = STYLES.get(code)
        lines = [f"{code}  {rule.about}"]
        lines += [f"  {rule.reason}"] if rule.reason else []
        lines += [f"  Write: {rule.example}"] if rule.example else []
        lines += [f"  See {rule.url}"] if rule.url else []
        if style is not None:
            lines += [f"  hadolint: {', '.join(style.hadolint)}"] if style.hadolint else []
            lines += ["  With --strict only."] if style.strict else []
        yield "\n".join(lines)


def _arguments(given: list[str]) -> dict[str, str | None]:
    arguments: dict[str, str | None] = {}
    for text in given:
        name, equals, value = text.partition("=")
        arguments[name] = value if equals else os.environ.get(name)
    return arguments
