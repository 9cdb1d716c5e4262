"""Opening paths that must not lead out of a directory, by openat2 where the kernel has it (Linux 5.6)."""

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

from pybuild.context.errors import ContextError

_SYS_OPENAT2 = 437  # the same on every architecture: calls since 403 share one table
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_MAX_LINKS = 40  # as the kernel
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@cache
def _syscall() -> Callable[[int, int, bytes, object, int], int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    # syscall() is variadic: without types each integer would be passed as 32 bits
    function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_long
    return function


@lru_cache(maxsize=32)
def _how(flags: int, resolve: int) -> tuple[object, int]:
    how = _OpenHow(flags, 0, resolve)
    return ctypes.byref(how), ctypes.sizeof(how)


def _openat2(root_fd: int, path: bytes, flags: int, resolve: int) -> int:
    how, size = _how(flags, resolve)
    for _ in range(32):
        fd = _syscall()(_SYS_OPENAT2, root_fd, path, how, size)
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        # EAGAIN: something was renamed meanwhile, so the kernel cannot tell where ".." led
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


@cache
def has_openat2() -> bool:
    """Does the kernel, or the sandbox around us, let openat2 through?"""
    root_fd = os.open("/", _DIRECTORY)
    try:
        os.close(_openat2(root_fd, b".", _DIRECTORY, _RESOLVE_BENEATH))
    except OSError:
        return False
    finally:
        os.close(root_fd)
    return True


def open_beneath(root_fd: int, path: bytes, flags: int, *, follow: bool = False) -> int:
    """Open `path` below the directory `root_fd` and return the descriptor (close-on-exec, non-blocking).

    With `follow` links are followed as long as each stays below the root, else any link is an error. Raises
    OSError: ELOOP for a link that is not to be followed, EXDEV for a way out.
    """
    if b"\0" in path:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    flags |= os.O_CLOEXEC
    if not flags & os.O_PATH:  # with which openat2 refuses all flags that mean nothing to it
        flags |= os.O_NONBLOCK | os.O_NOCTTY
    if has_openat2():
        resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
        try:
            return _openat2(root_fd, path or b".", flags, resolve if follow else resolve | _RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
    return walk_beneath(root_fd, path, flags, follow=follow)


def walk_beneath(root_fd: int, path: bytes, flags: int, *, follow: bool = False) -> int:
    """Do the same name by name, for kernels without openat2 and paths longer than one call takes."""

    def refuse(code: int) -> OSError:
        return OSError(code, os.strerror(code), path)

    if path.startswith(b"/"):
        raise refuse(errno.EXDEV)
    held = [os.open(".", _DIRECTORY, dir_fd=root_fd)]  # the way back up, so that ".." needs no look-up
    pending = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    links = 0
    try:
        while pending:
            part = pending.pop()
            if part == b"..":
                if len(held) == 1 or not follow:
                    raise refuse(errno.EXDEV)
                os.close(held.pop())
                continue
            # Looked at by O_PATH, which neither follows a link nor waits for a fifo
            fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held[-1])
            try:
                mode = os.fstat(fd).st_mode
                if stat.S_ISDIR(mode):
                    held.append(os.dup(fd))
                    if len(held) > 64 and not follow:
                        # Without links nothing goes up again, and a deep tree must not use up the descriptors
                        os.close(held.pop(0))
                elif stat.S_ISLNK(mode):
                    links += 1
                    if not follow or links > _MAX_LINKS:
                        raise refuse(errno.ELOOP)
                    target = os.readlink(b"", dir_fd=fd)
                    if target.startswith(b"/"):
                        raise refuse(errno.EXDEV)
                    pending.extend(piece for piece in reversed(target.split(b"/")) if piece not in (b"", b"."))
                elif pending:
                    raise refuse(errno.ENOTDIR)
                else:
                    # O_NOFOLLOW, for the name may be another file by now
                    return os.open(part, flags | os.O_NOFOLLOW, dir_fd=held[-1])
            finally:
                os.close(fd)
        return os.open(".", flags, dir_fd=held[-1])
    finally:
        for fd in held:
            os.close(fd)


def open_directory(root: Path) -> int:
    """Return a descriptor of a directory the user named (links in it are the user's own); raise ContextError."""
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ContextError(f"no such directory: `{root}`") from error
    except NotADirectoryError as error:
        raise ContextError(f"not a directory: `{root}`") from error
    except PermissionError as error:
        raise ContextError(f"permission denied: `{root}`") from error
    except (OSError, ValueError) as error:
        raise ContextError(f"cannot open `{root}`: {error}") from error


def read_beneath(root: Path, path: bytes, *, limit: int) -> bytes:
    """Return the content of a regular file below `root`, following links that stay below it.

    Ignore rules are not asked: this is for the Dockerfile and the ignore file. Raises ContextError with the
    OSError as its cause, also for more than `limit` bytes.
    """
    shown = path.decode(errors="replace")
    root_fd = open_directory(root)
    try:
        fd = open_beneath(root_fd, path, os.O_RDONLY, follow=True)
    except OSError as error:
        raise ContextError(explain(error, path)) from error
    finally:
        os.close(root_fd)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ContextError(f"not a regular file: `{shown}`")
        try:
            chunks: list[bytes] = []
            left = limit + 1
            while left > 0 and (chunk := file.read(left)):
                chunks.append(chunk)
                left -= len(chunk)
        except OSError as error:
            raise ContextError(explain(error, path)) from error
    if left <= 0:
        raise ContextError(f"larger than {limit} bytes: `{shown}`")
    return b"".join(chunks)


def explain(error: OSError, path: bytes) -> str:
    """Return a sentence for an OSError of `open_beneath`, naming the path."""
    shown = path.decode(errors="replace") or "."
    reasons = {
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOENT: "not found in the context",
        errno.ENOTDIR: "not found in the context",
        errno.EXDEV: "leads out of the context",
        errno.ELOOP: "too many symbolic links, or one where none may be",
    }
    reason = reasons.get(error.errno or 0)
    return f"{reason}: `{shown}`" if reason else f"cannot read `{shown}`: {error.strerror}"
