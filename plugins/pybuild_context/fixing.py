"""`--fix`: the lines that leave out what no step uses."""

from pathlib import Path

from pybuild.plugin import PybuildError, human_bytes, ignore_pattern, new_file, write_line
from pybuild_context.measure import Report

HEADING = "# No COPY, ADD or mount uses these"


def fix(report: Report) -> None:
    """Add lines to the ignore file, or make one; say how many to standard output.

    Raises PybuildError when it is not known what is used, and when the file cannot be written.
    """
    if report.used is None:
        raise PybuildError(f"what is used is not known: {report.why}")
    if not report.unused:
        write_line("nothing to add")
        return
    path = Path(report.ignore_file or f"{report.root}/.dockerignore")
    try:
        before = path.read_bytes() if report.ignore_file else b""
    except OSError as error:
        raise PybuildError(f"cannot read the ignore file: {path}: {error.strerror}") from error
    if before and not before.endswith(b"\n"):
        before += b"\n"
    added = [HEADING, *(ignore_pattern(one.name) for one in report.unused)]
    # A link may name one that others share
    with new_file(path.resolve()) as file:
        file.write(before + b"".join(line.encode(errors="surrogateescape") + b"\n" for line in added))
    saved = sum(one.bytes for one in report.unused)
    lines = "1 line" if len(report.unused) == 1 else f"{len(report.unused)} lines"
    write_line(f"added {lines} to {path}: {human_bytes(saved, 3)} less")
