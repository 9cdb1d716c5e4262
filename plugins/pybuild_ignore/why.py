"""`pybuild ignore why` and `pybuild ignore test`"""

import os
from typing import Annotated, NamedTuple

from pybuild.plugin import (
    Argument,
    Context,
    ExitCode,
    IgnoreLine,
    Option,
    UsageError,
    as_json,
    one_line,
    open_context,
    read_ignore_file,
    write_line,
)


class Decision(NamedTuple):
    """What the ignore file says of a path: `line` has decided, None when none matched.

    `through` is the directory above it that was decided about, "" when it was the path itself.
    """

    path: str
    left_out: bool
    line: IgnoreLine | None
    through: str


def why(
    path: Annotated[list[str], Argument(help="Paths as seen from the context's root.", metavar="PATH...")],
    directory: Annotated[str, Option("-C", "--context", help="The directory that is built (.).", metavar="DIR")] = ".",
    file: Annotated[str, Option("-f", "--file", help="The Dockerfile.", metavar="FILE")] = "",
    json: Annotated[bool, Option("--json", help="One JSON object for each.")] = False,
) -> None:
    """Tell whether paths are left out and which line decides; they need not be there."""
    context = open_context(directory, file or None)
    for name in path:
        decision = decide(context, name)
        write_line(as_json(_values(decision)) if json else sentence(context, decision))


def check(
    path: Annotated[list[str], Argument(help="Paths as seen from the context's root.", metavar="PATH...")],
    stays: Annotated[bool, Option("--stays", help="They are to stay.")] = False,
    directory: Annotated[str, Option("-C", "--context", help="The directory that is built (.).", metavar="DIR")] = ".",
    file: Annotated[str, Option("-f", "--file", help="The Dockerfile.", metavar="FILE")] = "",
    pattern: Annotated[
        list[str] | None, Option("-p", "--pattern", help="Lines to try, below those of the file.", metavar="LINE")
    ] = None,
) -> int:
    """Check that paths are left out, or stay; exit code 1 and a line for each that is not so."""
    text = "\n".join([(read_ignore_file(directory, file or None)[1] or "").rstrip("\n"), *(pattern or ())])
    context = open_context(directory, file or None, ignore_text=text)
    wrong = [decision for decision in (decide(context, name) for name in path) if decision.left_out == stays]
    for decision in wrong:
        write_line(sentence(context, decision))
    return ExitCode.FAILED if wrong else ExitCode.OK


def decide(context: Context, name: str) -> Decision:
    """Return what is decided about a path; raise UsageError for one that is not in the context."""
    path = os.path.normpath(name)
    if os.path.isabs(path):
        path = os.path.relpath(path, context.root)
    if path == ".." or path.startswith("../"):
        raise UsageError(f"not in the context: {name}")
    if path == ".":
        return Decision(".", False, None, "")
    lines = context.ignoring_lines(path)
    if not lines:
        return Decision(path, False, None, "")
    return Decision(path, not lines[-1].negated, lines[-1], _through(context, path, lines[-1]))


def _through(context: Context, path: str, line: IgnoreLine) -> str:
    """Return the directory above for which the line decided first, "" when that was the path itself."""
    parts = path.split("/")
    for count in range(1, len(parts)):
        above = "/".join(parts[:count])
        if line in context.ignoring_lines(above):
            return above
    return ""


def sentence(context: Context, decision: Decision) -> str:
    """Return a decision in words."""
    path, line = one_line(decision.path), decision.line
    if line is None:
        return f"{path}: stays, no line matches"
    place = f"{os.path.basename(str(context.ignore_file or '.dockerignore'))}:{line.number}"
    pattern = "!" * line.negated + one_line(line.pattern)
    text = f"{path}: {'left out' if decision.left_out else 'stays'} by {place}: {pattern}"
    return f"{text} (through {one_line(decision.through)}/)" if decision.through else text


def _values(decision: Decision) -> dict[str, object]:
    line = decision.line
    return {
        "path": decision.path,
        "leftOut": decision.left_out,
        "line": line.number if line else 0,
        "pattern": ("!" * line.negated + line.pattern) if line else "",
        "through": decision.through,
    }
