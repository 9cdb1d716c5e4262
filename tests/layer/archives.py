"""Archives for these tests, written by hand so that they can be as wrong as they like."""

import ctypes
import io
import os
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pybuild.layer.remove import remove_tree
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.tree.entry import Entry

END = bytes(1024)
_CLONE_NEWUSER = 0x10000000


def header(
    name: bytes,
    kind: bytes = b"0",
    size: int | bytes = 0,
    *,
    mode: int = 0o644,
    link: bytes = b"",
    uid: int | bytes = 0,
    mtime: int | bytes = 0,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """Return one header block with a right checksum; numbers may be given as raw fields."""

    def number(value: int | bytes, width: int) -> bytes:
        return value.ljust(width, b"\0") if isinstance(value, bytes) else b"%0*o\0" % (width - 1, value)

    front = name.ljust(100, b"\0") + number(mode, 8) + number(uid, 8) + number(0, 8) + number(size, 12)
    front += number(mtime, 12)
    back = kind + link.ljust(100, b"\0") + magic + bytes(64) + number(device[0], 8) + number(device[1], 8)
    back += prefix.ljust(155, b"\0") + bytes(12)
    return front + b"%06o\0 " % (sum(front) + sum(back) + 256) + back


def padded(data: bytes) -> bytes:
    """Return content as it stands behind its header."""
    return data + bytes(-len(data) % 512)


def member(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    """Return a file with its content."""
    return header(name, b"0", len(data), **fields) + padded(data)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755) -> bytes:
    """Return a directory."""
    return header(name, b"5", mode=mode)


def symlink(name: bytes, target: bytes) -> bytes:
    """Return a symlink."""
    return header(name, b"2", link=target, mode=0o777)


def hardlink(name: bytes, target: bytes) -> bytes:
    """Return a hard link."""
    return header(name, b"1", link=target)


def record(key: bytes, value: bytes) -> bytes:
    """Return one PAX record."""
    for length in range(len(key) + len(value) + 3, len(key) + len(value) + 20):
        text = b"%d %b=%b\n" % (length, key, value)
        if len(text) == length:
            return text
    raise AssertionError


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """Return an extended header."""
    body = b"".join(record(key, value) for key, value in records)
    return header(b"pax", kind, len(body)) + padded(body)


def stream(*parts: bytes) -> io.BytesIO:
    """Return an archive with its end."""
    return io.BytesIO(b"".join(parts) + END)


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Keep a descriptor of a path for a while."""
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def written(path: Path, *rows: tuple[Entry, bytes | None] | Entry) -> Packed:
    """Write entries as a layer to a file."""
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
        writer = TarWriter(fd)
        for row in rows:
            entry, data = row if isinstance(row, tuple) else (row, None)
            writer.add(entry, data)
        return writer.finish()


def as_root(task: Callable[[], None]) -> None:
    """Run `task` as root: here if we are, else in a child in a user namespace where this user is root.

    An assertion that fails there fails here with the child's own words.
    """
    if os.geteuid() == 0:
        task()
        return
    uid, gid = os.geteuid(), os.getegid()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
            task()
            status = 0
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as words:
        said = words.read().decode()
    _, result = os.waitpid(child, 0)
    assert result == 0, said


def removed(path: Path) -> None:
    """Remove a tree that may be too deep for pytest to clear away."""
    with opened(path.parent) as fd:
        remove_tree(fd, os.fsencode(path.name))


def tree(root: Path) -> dict[str, str]:
    """Return what is in a directory: kind and mode of each path, targets of links and content of files."""
    found: dict[str, str] = {}
    for place, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(place, name)
            state = path.lstat()
            text = stat.filemode(state.st_mode)
            if path.is_symlink():
                text = "-> " + os.readlink(path)
            elif stat.S_ISREG(state.st_mode):
                text += " " + path.read_text()
            found[str(path.relative_to(root))] = text
    return found
