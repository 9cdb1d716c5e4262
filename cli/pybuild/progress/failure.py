"""A failure as lines of text: where, what, the source with a caret, what to try. The only place that does it.

Dockerfile:7:6: unknown flag `--frm`
  COPY --frm=builder /out /bin
       ^^^^^
hint: did you mean `--from`?
"""

from pybuild.api.events import Failure
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
        first = source[0]
        # Escapes may widen the text before the caret; a tab must stay a tab to line up
        before = escape(first[: failure.column - 1])
        padding = "".join("\t" if char == "\t" else " " for char in before)
        marked = escape(first[failure.column - 1 : failure.column - 1 + failure.length])
        lines.insert(1, f"  {padding}{'^' * max(1, len(marked))}")
    return lines
