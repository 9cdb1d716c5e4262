"""Writing results: lines, tables as docker lays them out, `--format`, and files that appear whole or not at all."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pybuild.errors import PybuildError, UsageError
from pybuild.progress.escape import escape, one_line


def write_line(text: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(text + "\n")


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON in ASCII: nothing in it can play tricks on a terminal."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, indent=indent, separators=separators)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in docker's layout: columns at least 10 wide, three spaces between them."""
    cells = [list(headers), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) + 3 for row in cells) for column in range(len(headers))]
    widths = [max(10, width) for width in widths]
    return ["".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]


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
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file that appears at `path` when all went well, and not at all otherwise."""
    import tempfile

    if path.exists() and not path.is_file():
        # A fifo or /dev/null is written to as it is
        if path.is_dir():
            raise UsageError(f"is a directory: {path}")
        with _open(path) as out:
            yield out
        return
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    except OSError as error:
        raise PybuildError(f"cannot write: {path}: {error.strerror}") from error
    try:
        with open(descriptor, "wb", buffering=1 << 20) as out:
            yield out
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise PybuildError(f"cannot write: {path}: {error.strerror}") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("wb") as out:
            yield out
    except OSError as error:
        raise PybuildError(f"cannot write: {path}: {error.strerror}") from error


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
