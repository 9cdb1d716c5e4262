"""`pybuild ignore lint`"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pybuild.plugin import (
    FORMATS,
    Argument,
    Context,
    Effect,
    ExitCode,
    Finding,
    IgnoreError,
    IgnoreLine,
    Option,
    Seen,
    UsageError,
    findings_report,
    new_file,
    open_context,
    read_ignore_file,
    write_line,
)
from pybuild_ignore import rules
from pybuild_ignore.rules import RULES
from pybuild_ignore.wanted import PREVENTIVE, wanted

MANY = 1000
"""So many paths have to be walked for a `!` line before it is told."""

PASSES = 5
"""What one change makes right may need another: lines that are mended leave out more than before."""


class Mend(NamedTuple):
    """A change to the file: line `line` becomes `text`, None removes it; line 0 is added at the end."""

    line: int
    text: str | None


class Looked(NamedTuple):
    """What was found in an ignore file, in the order of its lines, and what would mend it."""

    path: Path
    text: str
    findings: list[Finding]
    mends: list[Mend]


def lint(
    directory: Annotated[str, Argument(help="The directory that is built.", metavar="[DIR]")] = ".",
    file: Annotated[str, Option("-f", "--file", help="The Dockerfile.", metavar="FILE")] = "",
    form: Annotated[str, Option("--format", help="text, json, sarif or github.", metavar="FORMAT")] = "text",
    skip: Annotated[list[str] | None, Option("--skip", help="Leave a rule out.", metavar="CODE")] = None,
    fix: Annotated[bool, Option("--fix", help="Change what can be changed safely, and tell the rest.")] = False,
    explain: Annotated[str, Option("--explain", help="Tell about a rule, or about all.", metavar="CODE|all")] = "",
) -> int:
    """Find lines that do not do what they seem to, and what the file misses; exit code 1 if there are any."""
    if explain:
        write_line("\n\n".join(explained(explain)))
        return ExitCode.OK
    if form not in FORMATS:
        raise UsageError(f"unknown format: {form}", f"known: {', '.join(FORMATS)}")
    left_out = [code.upper() for code in skip or ()]
    unknown = [code for code in left_out if code not in RULES]
    if unknown:
        raise UsageError(f"no such rule: {unknown[0]}", "`pybuild ignore lint --explain all` lists them")
    looked = look(directory, file, left_out)
    for _ in range(PASSES if fix else 0):
        if looked.mends:
            mend(looked)
            looked = look(directory, file, left_out)
    shown = os.path.relpath(looked.path)
    told = findings_report(
        str(looked.path) if shown.startswith("..") else shown, looked.text, looked.findings, RULES, form
    )
    if told:
        write_line(told)
    return ExitCode.FAILED if looked.findings else ExitCode.OK


def explained(code: str) -> Iterator[str]:
    """Yield what there is to know of a rule, or of all; raise UsageError."""
    named = list(RULES) if code == "all" else [code.upper()]
    for name in named:
        if name not in RULES:
            raise UsageError(f"no such rule: {code}", "`--explain all` lists them")
        rule = RULES[name]
        yield f"{name}  {rule.about}\n  {rule.reason}\n  Write: {rule.example}"


def look(directory: str, dockerfile: str, skip: Sequence[str] = ()) -> Looked:
    """Return what is found in the ignore file of a context; raise NotFoundError for what is not there."""
    path, text = read_ignore_file(directory, dockerfile or None)
    source = text or ""
    context, malformed = _opened(directory, dockerfile or None, source)
    found = [*malformed, *_of_lines(context, source), *_missing(context)]
    found = [(finding, mends) for finding, mends in found if finding.rule not in skip]
    found.sort(key=lambda pair: pair[0].line)
    return Looked(path, source, [finding for finding, _ in found], [one for _, mends in found for one in mends])


_Found = tuple[Finding, list[Mend]]


def _opened(directory: str, dockerfile: str | None, source: str) -> tuple[Context, list[_Found]]:
    """Return the context as it would be without the lines that are malformed, and these."""
    found: list[_Found] = []
    lines = source.split("\n")
    while True:
        try:
            ignore = "\n".join(lines) if found else None
            return open_context(directory, dockerfile, ignore_text=ignore), found
        except IgnoreError as error:
            if not error.line or not lines[error.line - 1]:
                raise
            message = error.message.partition(": ")[2].partition(": `")[0] or error.message
            found.append((_at(rules.MALFORMED, message, source, error.line), []))
            lines[error.line - 1] = ""


def _of_lines(context: Context, source: str) -> Iterator[_Found]:
    lines = context.ignore_lines
    survey = context.survey()
    raw = source.removeprefix("\ufeff").split("\n")
    deeper = _deeper(context, lines, survey.seen)
    first: dict[tuple[str, bool], int] = {}
    for line, effect in zip(lines, context.effects(survey), strict=True):
        written = raw[line.number - 1].strip()
        key = line.pattern, line.negated
        if key in first:
            message = f"`{written}` stands in line {first[key]} already"
            yield _at(rules.TWICE, message, source, line.number), [Mend(line.number, None)]
            continue
        first[key] = line.number
        yield from _syntax(line, written, source)
        yield from _effect(line, effect, written, source, anything=line.number in deeper)
        if line.number in deeper:
            count, example = deeper[line.number]
            message = f"`{written}` leaves out the root's only: {_paths(count)} deeper stay, such as {example}"
            yield _at(rules.DEPTH, message, source, line.number), [Mend(line.number, f"**/{line.pattern}")]
    yield from _walks(lines, survey.seen, source)


def _syntax(line: IgnoreLine, written: str, source: str) -> Iterator[_Found]:
    if "[!" in line.pattern:
        message = f"`{written}`: ! does not negate a class, ^ does"
        mended = ("!" if line.negated else "") + line.pattern.replace("[!", "[^")
        yield _at(rules.CLASS, message, source, line.number), [Mend(line.number, mended)]
    before, hash_, comment = written.partition(" #")
    if hash_ and before.strip():
        message = f"`#{comment}` is part of the pattern"
        mends = [Mend(line.number, f"#{comment}\n{before.rstrip()}")]
        yield _at(rules.COMMENT, message, source, line.number), mends


def _effect(line: IgnoreLine, effect: Effect, written: str, source: str, *, anything: bool) -> Iterator[_Found]:
    if effect.decides:
        return
    plain = line.pattern.removeprefix("**/")
    if line.negated:
        if effect.inside_stay:
            mended = f"!{line.pattern}/**"
            message = (
                f"`{written}`: {effect.inside_stay} is not left out itself, only things in it; `{mended}` brings those"
            )
            yield _at(rules.BRINGS_NOTHING, message, source, line.number), [Mend(line.number, mended)]
        elif effect.matches:
            message = f"`{written}` brings back nothing: {effect.example} is not left out"
            yield _at(rules.BRINGS_NOTHING, message, source, line.number), []
        elif plain not in PREVENTIVE:
            message = f"`{written}` brings back nothing: no line above it leaves out what it matches"
            yield _at(rules.BRINGS_NOTHING, message, source, line.number), []
    elif effect.matches:
        message = f"`{written}` changes nothing: line {effect.decided_by} leaves out {effect.example} already"
        yield _at(rules.SHADOWED, message, source, line.number), []
    elif not anything and plain not in PREVENTIVE:
        yield _at(rules.NOTHING, f"`{written}` matches nothing", source, line.number), []


def _deeper(context: Context, lines: Sequence[IgnoreLine], seen: Sequence[Seen]) -> dict[int, tuple[int, str]]:
    """Return for lines of a single name how many paths of that name stay below the root, and one of them."""
    names = [line for line in lines if not line.negated and "/" not in line.pattern and line.pattern.strip("*")]
    names = [line for line in names if not line.pattern.startswith("**")]
    if not names:
        return {}
    # One pattern a line, so that the number of a line is a place in the list
    text = "\n".join(f"**/{line.pattern}" for line in names)
    there = open_context(context.root, context.dockerfile, ignore_text=text)
    stays = {one.path for one in seen if not one.line}
    found: dict[int, tuple[int, str]] = {}
    out: set[str] = set()
    for one in there.survey().seen:
        above = one.path.rpartition("/")[0]
        if one.line and above in out:
            out.add(one.path)
        elif one.line:
            out.add(one.path)
            if one.path in stays and not context.ignoring_lines(one.path):
                number = names[one.line - 1].number
                count, example = found.get(number, (0, one.path))
                found[number] = (count + 1, example)
    return found


def _walks(lines: Sequence[IgnoreLine], seen: Sequence[Seen], source: str) -> Iterator[_Found]:
    """Yield `!` lines without a directory of their own: they make builders look everywhere."""
    left_out = sum(1 for one in seen if one.line)
    for line in lines:
        if line.negated and line.pattern.startswith("**") and left_out >= MANY:
            message = f"`!{line.pattern}` makes builds walk {_paths(left_out)} that are left out"
            yield _at(rules.WALKS, message, source, line.number), []


def _missing(context: Context) -> Iterator[_Found]:
    for one in wanted(str(context.root), context.survey().seen):
        code = rules.SECRET if one.secret else rules.NEEDLESS
        message = f"{one.path} is not left out: {one.what}; add `{one.pattern}`"
        # It is about no line, but the file as a whole
        yield Finding(code, message, 0, 0, 0, 0, 0), [Mend(0, one.pattern)]


def _at(code: str, message: str, source: str, line: int) -> Finding:
    text = source.split("\n")[line - 1].rstrip("\r")
    written = text.strip()
    return Finding(code, message, line, line, line, text.index(written) + 1 if written else 0, len(written))


def _paths(count: int) -> str:
    return f"{count:,} path{'' if count == 1 else 's'}"


def mend(looked: Looked) -> None:
    """Write the file with what would mend it; only the first change of a line counts.

    Lines are added when all others are right, as those may come to leave out the same.
    """
    lines = looked.text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    changes: dict[int, str | None] = {}
    for one in looked.mends:
        if one.line:
            changes.setdefault(one.line, one.text)
    kept: list[str] = []
    for number, line in enumerate(lines, 1):
        changed = changes.get(number, line)
        if changed is not None:
            kept.append(changed)
    if not changes:
        kept += [one.text for one in looked.mends if one.text is not None]
    with new_file(looked.path.resolve()) as file:
        file.write("".join(f"{line}\n" for line in kept).encode(errors="surrogateescape"))
