"""Writing results as `--format` says, and where binary data goes and comes from."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from pybuild.errors import PybuildError, UsageError
from pybuild.plugin.output import as_json as as_json
from pybuild.plugin.output import new_file as new_file
from pybuild.plugin.output import table as table
from pybuild.plugin.output import write_line as write_line
from pybuild.progress.escape import escape


def write_rows(
    rows: Sequence[Mapping[str, Any]], form: str, headers: Mapping[str, str], default: Sequence[str]
) -> None:
    """Write rows as `--format` says: "" or "table" (the columns `default`), "json" (one object a line), "table
    TEMPLATE" or TEMPLATE. `headers` are the headings by field.
    """
    if form in ("", "table"):
        lines = table([headers[name] for name in default], [[str(row[name]) for name in default] for row in rows])
    elif form == "json":
        lines = [as_json(row) for row in rows]
    else:
        from pybuild.commands.gotemplate import parse_template

        as_table = form.startswith("table ")
        template = parse_template(form.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n"))
        lines = [template.render(row) for row in rows]
        if as_table:
            heading = template.render({**{name: name.upper() for name in (rows[0] if rows else ())}, **headers})
            lines = table(heading.split("\t"), [_padded(line.split("\t"), heading.count("\t") + 1) for line in lines])
        elif sys.stdout.isatty():
            lines = [escape(line) for line in lines]
    if lines:
        write_line("\n".join(lines))


def _padded(cells: list[str], count: int) -> list[str]:
    return [*cells[:count], *[""] * (count - len(cells))]


def short_id(identity: str) -> str:
    """Return the 12 digits by which people know an image."""
    return identity.removeprefix("sha256:")[:12]


def standard_output(what: str) -> BinaryIO:
    """Return standard output for binary data; raise UsageError when it is a terminal."""
    if sys.stdout.isatty():
        raise UsageError(f"{what} will not be written to a terminal", "name a file, or redirect standard output")
    sys.stdout.flush()
    return sys.stdout.buffer


@contextmanager
def input_file(path: str, what: str) -> Iterator[BinaryIO]:
    """Give the file at `path`, or standard input for "-"."""
    if path == "-":
        if sys.stdin.isatty():
            raise UsageError(f"{what} is to come from standard input, which is a terminal")
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise PybuildError(f"cannot read {what}: {path}: {error.strerror}") from error
    with file:
        if os.path.isdir(path):
            raise PybuildError(f"cannot read {what}: {path}: is a directory")
        yield file


def parse_filters(given: Sequence[str]) -> dict[str, list[str]]:
    """Return `--filter NAME=VALUE` options as a map; raise UsageError."""
    filters: dict[str, list[str]] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UsageError(f"a filter is NAME=VALUE, not: {item}")
        filters.setdefault(name.strip(), []).append(value)
    return filters
