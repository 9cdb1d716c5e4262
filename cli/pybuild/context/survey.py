"""Everything there is in a context, with the ignore line that leaves it out and whether a build uses it."""

import os
import stat
import sys
from pathlib import Path
from typing import NamedTuple

from pybuild.context.footprint import Footprint
from pybuild.context.ignore import DirState, IgnoreMatcher

FILE, DIRECTORY, LINK, OTHER = KINDS = ("file", "directory", "link", "other")

_NAMES_ARE_UTF8 = sys.getfilesystemencoding() == "utf-8"


class Seen(NamedTuple):
    """A path below the root, "/" between names, what is no UTF-8 as surrogates.

    `kind` is one of KINDS; `size` is in bytes, 0 for all but files. `line` is that of the ignore file which leaves it
    out, 0 when it stays. `used` tells whether a step may read it. The rest is what the kernel says of the inode, times
    in ns.
    """

    path: str
    kind: str
    size: int
    line: int
    used: bool
    device: int
    inode: int
    mtime: int
    ctime: int


class Survey(NamedTuple):
    """All that was seen, parents first, and the directories that cannot be read."""

    seen: list[Seen]
    unreadable: list[str]


class _Directory(NamedTuple):
    path: str
    state: DirState | None
    """None when no pattern can match in here: all share the fate of the directory."""
    line: int
    used: bool | None
    """None when it has to be asked for each name."""
    footprint: Footprint


def survey(root: Path, ignore: IgnoreMatcher, footprint: Footprint) -> Survey:
    """Walk a directory; links are not followed. What is left out is walked too, and counts as not used.

    Raises OSError when the root itself cannot be listed.
    """
    top = os.fspath(root)
    seen: list[Seen] = []
    unreadable: list[str] = []
    pending = [_Directory("", ignore.root if ignore else None, 0, True if footprint.covers(b"") else None, footprint)]
    while pending:
        directory = pending.pop()
        try:
            _list(top, directory, ignore, seen, pending)
        except OSError:
            if not directory.path:
                raise
            unreadable.append(directory.path)
    return Survey(seen, unreadable)


def _list(
    top: str,
    directory: _Directory,
    ignore: IgnoreMatcher,
    seen: list[Seen],
    pending: list[_Directory],
) -> None:
    path, state, inherited, all_used, footprint = directory
    prefix = path + "/" if path else ""
    asks = state is not None and not state.quiet
    deeper = state is not None and state.may_match()
    lines, regular, kind_of = ignore.lines, stat.S_IFREG, stat.S_IFMT
    directories: list[_Directory] = []
    with os.scandir(f"{top}/{path}" if path else top) as items:
        for item in items:
            name = item.name
            text = name if _NAMES_ARE_UTF8 else os.fsencode(name).decode(errors="surrogateescape")
            line = inherited
            if asks and state is not None:
                left_out, matched = state.verdict(text)
                line = lines[matched[-1]] if left_out else 0
            try:
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since it was listed
            full = prefix + text
            mode = kind_of(status.st_mode)
            below = mode == stat.S_IFDIR
            used = all_used
            if used is None:
                used = not line and footprint.uses(_bytes(full), directory=below, plain=mode == regular)
            seen.append(
                Seen(
                    full,
                    FILE if mode == regular else DIRECTORY if below else LINK if mode == stat.S_IFLNK else OTHER,
                    status.st_size if mode == regular else 0,
                    line,
                    used and not line,
                    status.st_dev,
                    status.st_ino,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
            )
            if below:
                inside, narrowed = all_used, footprint
                if all_used is None:
                    inside = True if footprint.covers(_bytes(full)) else None
                    narrowed = footprint.within(_bytes(full))
                    if not narrowed:
                        inside = False
                entered = state.enter(text) if deeper and state is not None else None
                directories.append(_Directory(full, entered, line, inside, narrowed))
    pending += directories[::-1]


def _bytes(path: str) -> bytes:
    return path.encode(errors="surrogateescape")
