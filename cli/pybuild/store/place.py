"""The directories of a store: made private, checked when opened, and names for temporary things."""

import ctypes
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path

from pybuild.store.errors import StoreError, StoreVersionError, disk_error

VERSION = 2
"""Layout of the store. Raise it when older programs must not touch it any more.

2: images may be held by an index, which a prune of older programs would not see.
"""

DIRECTORIES = ("blobs", "blobs/sha256", "tocs", "snapshots", "contexts", "caches", "builds", "tmp", "logs")

RESERVE = 512 << 10
"""Bytes kept back, so that a prune has room for its own notes when the disk is full."""

ENOUGH_AGE = 86400
"""Seconds after which a temporary thing of unknown origin counts as left over."""


class Place:
    """Where the parts of a store are; made once, as joining paths takes its time in every step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.sqlite"
        self.lock = root / "lock"
        self.blobs = root / "blobs" / "sha256"
        self.tocs = root / "tocs"
        self.snapshots = root / "snapshots"
        self.kept = root / "kept"
        self.contexts = root / "contexts"
        self.caches = root / "caches"
        self.builds = root / "builds"
        self.tmp = root / "tmp"
        self.downloads = root / "downloads"
        self.absent = root / "absent"
        self.reserve = root / "reserve"
        self.fitted = root / "fitted"

    def temporary(self) -> Path:
        """Return an unused name in `tmp` that tells which process made it. Nothing is created."""
        return self.tmp / f"{_own_prefix(os.getpid())}.{next(_counter)}"


_counter = count()
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)-([0-9a-f]{8})\.\d+")


@lru_cache(maxsize=2)
def _own_prefix(pid: int) -> str:
    started = _start_time(pid)
    return f"{pid}-{started or 0}-{_pid_namespace()}-{boot_id()[:8] or '0' * 8}"


def _start_time(pid: int) -> int | None:
    """Return the start of a living process in ticks since boot, None when it is gone (proc(5), /proc/PID/stat)."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name of the program may hold anything, parentheses too
    fields = data[data.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def boot_id() -> str:
    """Return the id of the running boot, "" when the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def is_left_over(name: str, state: os.stat_result, now: float) -> bool:
    """Is the process gone that made this thing in `tmp`?"""
    match = _NAME.fullmatch(name)
    if match is None:
        return now - state.st_mtime > ENOUGH_AGE
    pid, started, namespace, boot = int(match[1]), int(match[2]), int(match[3]), match[4]
    if boot != boot_id()[:8]:
        return True
    if namespace != _pid_namespace():
        # Its pid means nothing here: a build in a container may share the store
        return now - state.st_mtime > ENOUGH_AGE
    return _start_time(pid) != started


def open_place(root: Path, *, create: bool) -> tuple[Place, int]:
    """Check the directory of a store; return it and the version of its layout, 0 when it is not complete.

    With `create` an absent one is made, every new directory above it with mode 0700 too. Raises StoreError for one
    that belongs to somebody else, that others may write, or that cannot be written, and StoreVersionError.
    """
    try:
        state = root.stat()
    except FileNotFoundError:
        if not create:
            raise StoreError(f"there is no store: {root}") from None
        state = _make_private(root)
    except OSError as error:
        raise disk_error("cannot open the store", root, error) from error
    _check_owner(root, state)
    return Place(root), _check_version(root)


def _make_private(root: Path) -> os.stat_result:
    try:
        missing = [root]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for path in reversed(missing):
            # mkdir(parents=True) would give the upper ones the mode of the umask
            path.mkdir(mode=0o700, exist_ok=True)
        return root.stat()
    except OSError as error:
        raise disk_error("cannot make the store", root, error) from error


def _check_owner(root: Path, state: os.stat_result) -> None:
    hint = "set PYBUILD_STORE to a directory of your own"
    if not stat.S_ISDIR(state.st_mode):
        raise StoreError(f"the store is not a directory: {root}", hint)
    if state.st_uid != os.geteuid():
        raise StoreError(f"the store belongs to user {state.st_uid}, not to {os.geteuid()}: {root}", hint)
    if state.st_mode & stat.S_IWOTH:
        raise StoreError(f"the store is writable for everybody: {root}", f"`chmod 700 {root}` if that is a mistake")
    if not os.access(root, os.W_OK | os.X_OK):
        raise StoreError(f"the store cannot be written: {root}", "set PYBUILD_STORE to a writable directory")
    if state.st_mode & 0o077:
        # It will hold set-user-id files of images: nobody else may reach them
        try:
            root.chmod(0o700)
        except OSError as error:
            raise disk_error("cannot make the store private", root, error) from error


def _check_version(root: Path) -> int:
    path = root / "version"
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read the version of the store: {path}: {error}") from error
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()):
        raise StoreError(f"the version of the store is not a number: {path}", "remove that file to start anew")
    if int(digits) > VERSION:
        raise StoreVersionError(
            f"the store was made by a newer pybuild (layout {digits}, known is {VERSION}): {root}",
            "upgrade pybuild, or set PYBUILD_STORE to another directory",
        )
    return int(digits)


def make_directories(place: Place) -> None:
    """Make the parts of a store that are absent."""
    for name in DIRECTORIES:
        (place.root / name).mkdir(mode=0o700, exist_ok=True)
    place.lock.touch(mode=0o600)


def hold_reserve(place: Place) -> None:
    """Keep some space back; without any to spare there is none."""
    try:
        fd = os.open(place.reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.posix_fallocate(fd, 0, RESERVE)
    except OSError:
        place.reserve.unlink(missing_ok=True)
    finally:
        os.close(fd)


def release_reserve(place: Place) -> bool:
    """Give the space back; return whether there was some."""
    try:
        place.reserve.unlink()
    except OSError:
        return False
    return True


def write_version(place: Place) -> None:
    """Tell that the store is complete."""
    temporary = place.temporary()
    temporary.write_text(f"{VERSION}\n")
    temporary.replace(place.root / "version")


@contextmanager
def making(place: Place) -> Iterator[None]:
    """Hold the lock under which a store is made or repaired; another process waits for it."""
    fd = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove_own(path: Path) -> bool:
    """Remove a file or tree that is all ours, without following links; return whether it is gone.

    False means that (some of) it belongs to mapped ids or is nested too deep: a worker has to finish.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)
    except (OSError, RecursionError):
        return not os.path.lexists(path)
    return True


def sync_file_system(path: Path) -> None:
    """Write all that the file system of `path` has in memory to its disk (syncfs(2)); raise StoreError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            number = ctypes.get_errno()
            raise disk_error("cannot flush the store", path, OSError(number, os.strerror(number)))
    finally:
        os.close(fd)


def allocated(path: Path) -> int:
    """Return the bytes the file system has allocated for a file or a whole tree (`st_blocks`), hard links once.

    What may not be read (directories of mapped ids closed to their user) is not counted.
    """
    try:
        state = path.lstat()
    except FileNotFoundError:
        return 0
    total = state.st_blocks * 512
    if not stat.S_ISDIR(state.st_mode):
        return total
    seen: set[tuple[int, int]] = set()
    pending = [os.fspath(path)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    state = entry.stat(follow_symlinks=False)
                    if state.st_nlink > 1 and not stat.S_ISDIR(state.st_mode):
                        if (state.st_dev, state.st_ino) in seen:
                            continue
                        seen.add((state.st_dev, state.st_ino))
                    total += state.st_blocks * 512
                    if stat.S_ISDIR(state.st_mode):
                        pending.append(entry.path)
        except (FileNotFoundError, PermissionError):
            continue
    return total
