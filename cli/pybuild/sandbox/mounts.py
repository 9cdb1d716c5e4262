"""The root directory of a RUN: the overlay and all that is mounted in it.

Everything happens on descriptors. A target is opened by openat2 inside the image's root and mounted upon
by descriptor, so no symbolic link of the image leads a mount astray; sources are opened before, by names
of the host. What hides things (/dev/null, an empty directory) is ours, never the image's.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pybuild.sandbox import ground, overlay, syscalls
from pybuild.sandbox.attach import Attaching
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.spec import DEFAULT_SHM_SIZE, FileMount, SandboxSpec
from pybuild.sandbox.stubs import Stubs
from pybuild.sandbox.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)

_SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_FDCWD = -100
_DEV = "/dev/"

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)
HIDDEN_FILES = (
    *(b"kcore", b"keys", b"latency_stats", b"timer_list", b"timer_stats"),
    *(b"sched_debug", b"interrupts"),
)
"""Below /proc; so are READ_ONLY."""
HIDDEN_DIRECTORIES = (b"acpi", b"asound", b"scsi")
HIDDEN_OF_SYS = (b"firmware", b"devices/virtual/powercap")
READ_ONLY = (b"bus", b"fs", b"irq", b"sys", b"sysrq-trigger")


class Parts:
    """What every root has, whatever the image: /proc, /sys and /dev, complete, to be moved to their places.

    Made in the namespaces of the sandbox, over the host's /proc and /sys: a mount that lies nowhere yet takes
    no other mounts. The last of them, /sys, has to be moved away before /dev. With `own_network` there is a network
    namespace for /sys to show. Without `hide` nothing is hidden or
    read-only.
    """

    def __init__(self, *, own_network: bool, hide: bool = True) -> None:
        devices = {name: syscalls.open_tree(_FDCWD, b"/dev/" + name.encode()) for name in DEVICES}
        self._null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
        state = os.fstat(self._null)
        if not stat.S_ISCHR(state.st_mode) or state.st_rdev != os.makedev(1, 3):
            raise SandboxError("this system's /dev/null is not the null device")
        with _step("mount /proc"):
            self.proc = _new_proc()
            _put(self.proc, b"/proc")
        with _step("mount /sys"):
            self.sys = _new_sys(own_network, MOUNT_ATTR_RDONLY if hide else 0)
        with _step("mount /dev"):
            self.dev = syscalls.new_mount(b"tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, mode="0755", size="65536k")
            # Not over the host's /dev: the store may be in its /dev/shm
            _put(self.dev, b"/sys")
            self._fill_dev(devices)
        _put(self.sys, b"/sys")
        if hide:
            with _step("hide what belongs to the host"):
                self._hide()
        self.files = syscalls.new_mount(b"tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, mode="0755")

    def _fill_dev(self, devices: dict[str, int]) -> None:
        for name, device in devices.items():
            place = os.open(name, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self.dev)
            syscalls.move_mount(device, place)
            os.close(place)
            os.close(device)
        for name, to in DEVICE_LINKS:
            os.symlink(to, name, dir_fd=self.dev)
        group = {"gid": "5"} if _maps_group(5) else {}
        flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
        self.place("pts", syscalls.new_mount(b"devpts", flags, ptmxmode="0666", mode="0620", **group))
        self.place("mqueue", syscalls.new_mount(b"mqueue", _SAFE))

    def place(self, name: str, mount: int) -> None:
        """Mount something in a new directory of /dev; the descriptor is closed."""
        os.mkdir(name, dir_fd=self.dev)
        place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.dev)
        syscalls.move_mount(mount, place)
        os.close(place)
        os.close(mount)

    def _hide(self) -> None:
        for path in HIDDEN_FILES:
            _cover(self.proc, path, lambda: syscalls.open_tree(self._null, b""))
        for path in HIDDEN_DIRECTORIES:
            _cover(self.proc, path, _empty)
        for path in HIDDEN_OF_SYS:
            _cover(self.sys, path, _empty)
        for path in READ_ONLY:
            _cover(self.proc, path, None)


class Root:
    """The root being made; `fd` is its directory, `stubs` what was created in the image to mount upon."""

    def __init__(self, spec: SandboxSpec, parts: Parts, resolv_conf: bytes) -> None:
        self._spec = spec
        self._parts = parts
        # Opened anew: a descriptor from before the clone belongs to the parent's mount namespace
        self._staging = os.open(spec.staging, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        upper = os.open(overlay.UPPER, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._staging)
        aside = ground.open_aside(spec, self._staging)
        tree = ground.mount(spec)
        self._files = self._attach_files(resolv_conf)
        os.mkdir("root", dir_fd=self._files)
        place = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._files)
        syscalls.move_mount(tree, place)
        os.close(place)
        self.fd = tree
        self.stubs = Stubs(tree, upper, aside)

    def _attach_files(self, resolv_conf: bytes) -> int:
        """Make a file system for files of ours and attach it: binds of detached mounts came late to the kernel.

        Over the staging directory it is out of the way; nothing of the host is visible after the pivot.
        """
        files = self._parts.files
        syscalls.move_mount(files, self._staging)
        os.mkdir("pipes", 0o755, dir_fd=files)
        spec = self._spec
        for name, content in spec.scripts:
            _write(files, "pipes/" + name, content, 0o755)
        self._mounted = [
            FileMount("/etc/resolv.conf", resolv_conf),
            FileMount("/etc/hosts", hosts_file(spec)),
            FileMount("/etc/hostname", spec.hostname.encode() + b"\n"),
            *spec.mounts,
        ]
        for number, item in enumerate(self._mounted):
            if item.lent or item.target.startswith(_DEV):
                continue
            _write(files, f"file{number}", item.content, item.mode)
        return files

    def mount_all(self) -> None:
        """Mount everything below the root."""
        for name in ("proc", "sys", "dev"):
            self.stubs.keep_directory(name.encode())
        with _step("mount /proc"):
            self._attach(self._parts.proc, b"proc")
        with _step("mount /sys"):
            self._attach(self._parts.sys, b"sys")
        with _step("mount /dev"):
            self._mount_dev()
        places: list[tuple[int, FileMount, int]] = []
        for number, item in enumerate(self._mounted):
            if item.target.startswith(_DEV):
                # A file system of ours, and new for each RUN
                _write(self._parts.dev, item.target.removeprefix(_DEV), item.content, item.mode)
                continue
            if item.optional and not self._has(os.fsencode(item.target)):
                continue
            if item.lent:
                with _step(f"put a file at {item.target}"):
                    self.stubs.lend(os.fsencode(item.target), item.content, item.mode)
                continue
            with _step(f"make a place for {item.target}"):
                places.append((number, item, self.stubs.file(os.fsencode(item.target))))
        for number, item, place in places:
            with _step(f"mount {item.target}"):
                self._bind_ours(f"file{number}".encode(), place)
        self.stubs.settle()
        Attaching(self._spec, self.fd, self._files, self.stubs).attach_all()

    def enter(self) -> None:
        """Make this the root directory of the process, and nothing else reachable."""
        os.fchdir(self.fd)
        syscalls.pivot_root(b".", b".")
        syscalls.umount(b".", syscalls.MNT_DETACH)
        os.chdir("/")

    def _target(self, path: bytes, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS) -> int:
        return syscalls.openat2(self.fd, path, os.O_PATH, resolve)

    def _has(self, path: bytes) -> bool:
        try:
            os.close(self._target(path, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
        except OSError:
            return False
        return True

    def _attach(self, mount: int, path: bytes) -> None:
        target = self._target(path)
        try:
            syscalls.move_mount(mount, target)
        finally:
            os.close(target)

    def _mount_dev(self) -> None:
        self._attach(self._parts.dev, b"dev")
        shm = self._spec.shm_size or DEFAULT_SHM_SIZE
        self._parts.place("shm", syscalls.new_mount(b"tmpfs", _SAFE, mode="1777", size=str(shm)))
        if self._spec.scripts:
            os.mkdir("pipes", dir_fd=self._parts.dev)
            place = os.open("pipes", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._parts.dev)
            self._bind_ours(b"pipes", place)

    def _bind_ours(self, name: bytes, place: int) -> None:
        """Mount something of our own files, read-only, at `place`, which is closed."""
        bind = syscalls.open_tree(self._files, name)
        try:
            syscalls.mount_setattr(bind, MOUNT_ATTR_RDONLY)
            syscalls.move_mount(bind, place)
        finally:
            os.close(bind)
            os.close(place)


@contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno == errno.ELOOP:
            hint = "the image has a symbolic link in that place"
        raise SandboxError(f"cannot {what} in the sandbox: {error.strerror}", hint) from error


def _put(mount: int, path: bytes) -> None:
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.move_mount(mount, place)
    finally:
        os.close(place)


def _empty() -> int:
    return syscalls.new_mount(b"tmpfs", _SAFE | MOUNT_ATTR_RDONLY, mode="0555", nr_inodes="1")


def _cover(within: int, path: bytes, make: Callable[[], int] | None) -> None:
    """Mount what `make` gives over a path of a mount, or make it read-only when None; pass over what is not there."""
    try:
        target = syscalls.openat2(within, path, os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if make is None:
            mount = syscalls.open_tree(target, b"", recursive=True)
            syscalls.mount_setattr(mount, MOUNT_ATTR_RDONLY, recursive=True)
        else:
            mount = make()
        try:
            syscalls.move_mount(mount, target)
        finally:
            os.close(mount)
    finally:
        os.close(target)


def _new_proc() -> int:
    try:
        return syscalls.new_mount(b"proc", _SAFE)
    except OSError as error:
        # In a container that hides parts of its own: a new one would show them again, so the kernel refuses
        if error.errno != errno.EPERM:
            raise
        return syscalls.open_tree(_FDCWD, b"/proc", recursive=True)


def _new_sys(own_network: bool, more: int) -> int:
    flags = _SAFE | more
    if own_network:
        try:
            return syscalls.new_mount(b"sysfs", flags)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
    # A new one belongs to a network namespace of our own
    sys = syscalls.open_tree(_FDCWD, b"/sys", recursive=True)
    syscalls.mount_setattr(sys, flags, recursive=True)
    return sys


def hosts_file(spec: SandboxSpec) -> bytes:
    """Return /etc/hosts: the loopback names, this host's and the extra ones."""
    lines = [f"127.0.0.1\tlocalhost {spec.hostname}", "::1\tlocalhost ip6-localhost ip6-loopback"]
    for item in spec.extra_hosts:
        name, colon, address = item.partition(":")
        if not colon or not name or not address or any(char.isspace() for char in item):
            raise SandboxError(f"extra host is not `name:address`: {item}")
        lines.append(f"{address}\t{name}")
    return ("\n".join(lines) + "\n").encode()


def _write(dir_fd: int, name: str, content: bytes, mode: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _maps_group(gid: int) -> bool:
    with open("/proc/self/gid_map", "rb") as file:
        rows = [tuple(map(int, line.split())) for line in file]
    return any(first <= gid < first + count for first, _, count in rows)
