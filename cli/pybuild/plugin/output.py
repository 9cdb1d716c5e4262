"""Writing results: lines, JSON, tables as docker lays them out, bars, and files that appear whole or not at all."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pybuild.errors import PybuildError, UsageError
from pybuild.progress.escape import one_line


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


@contextmanager
def progress(label: str, total: int = 0) -> Iterator[Callable[[int], object]]:
    """Give a function to call with each number of bytes that is done; a bar on standard error shows it.

    `total` is 0 when nobody knows. Where standard error is no terminal nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total or None, desc=one_line(label), unit="B", unit_scale=True, leave=False) as shown:
        yield shown.update


_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int) -> str:
    """Return a bar of `width` columns for a share between 0 and 1, in eighths of a column."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


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
