"""What the worker can be asked to do. Each job runs in a process of its own inside the user namespace.

A job gets parameters in plain types and descriptors, which end with its process. Only jobs open what strangers
made and touch files of mapped ids.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from pybuild.layer.apply import Rules, apply_layer, extract_context
from pybuild.layer.decompress import open_decompressed
from pybuild.layer.errors import LimitError
from pybuild.layer.index import index_layer
from pybuild.layer.limits import DEFAULT_LIMITS, Limits
from pybuild.layer.pack import Owners, pack_tree
from pybuild.layer.remove import remove_tree
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.sandbox import ground, overlay, syscalls
from pybuild.sandbox.child import Job
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.holder import hold
from pybuild.sandbox.idmap import is_mode
from pybuild.sandbox.run import run as run_sandbox
from pybuild.sandbox.spec import RunEnd, SandboxSpec
from pybuild.tree.entry import Entry
from pybuild.tree.notes import OWNER_XATTR, owner_note

if TYPE_CHECKING:
    from pybuild.sandbox.standins import Tools

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class RunResult(msgspec.Struct, frozen=True):
    """How a RUN ended, and its packed changes when that was well."""

    end: RunEnd
    packed: Packed | None = None


def run(params: Any, fds: list[int]) -> RunResult:
    """[spec, mode, how many descriptors are only held, if any]; descriptors: standard output, standard error, the
    layer to be, the namespace of a private network when the spec has one, control groups to enter, and those held.
    """
    wire, mode, *counts = params
    assert is_mode(mode)
    spec = SandboxSpec.from_wire(wire)
    held = fds[len(fds) - sum(counts) :]
    stdout, stderr, tar, *groups = fds[: len(fds) - len(held)]
    namespace = groups.pop(0) if spec.network == "private" else None

    def pack(upper: int) -> Packed:
        return _pack(spec.staging, upper, spec.lowers, tar, mode)

    if spec.snapshotter == "copy":
        _note(spec.staging)
    try:
        if spec.isolation == "chroot":
            from pybuild.sandbox import chroot

            return RunResult(*chroot.run(spec, mode, stdout, stderr, pack, _tools(), groups))
        return RunResult(*run_sandbox(spec, mode, stdout, stderr, pack, namespace, groups))
    finally:
        # Before the answer: whoever gets it may want at once what was held
        for fd in held:
            os.close(fd)


def shell(params: Any, fds: list[int]) -> RunEnd:
    """As `run`, but its changes stay where they are; instead of the layer, standard input if it is given."""
    wire, mode = params
    assert is_mode(mode)
    spec = SandboxSpec.from_wire(wire)
    stdout, stderr, *others = fds
    stdin = [others.pop(0)] if spec.stdin == "given" else []
    namespace = others.pop(0) if spec.network == "private" else None
    if spec.isolation == "chroot":
        from pybuild.sandbox import chroot

        return chroot.run(spec, mode, stdout, stderr, lambda _: None, _tools(), others, stdin)[0]
    return run_sandbox(spec, mode, stdout, stderr, lambda _: None, namespace, others, stdin)[0]


def _tools() -> "Tools":
    from pybuild.layer.clone import copy_any
    from pybuild.sandbox.standins import Tools

    return Tools(remove=remove_tree, copy=copy_any)


def pack(params: Any, fds: list[int]) -> Packed:
    """[changed tree, directories of the layers below, mode]; descriptor: the layer to be."""
    path, lowers, mode = params
    return _pack(os.path.dirname(path), os.open(path, _DIRECTORY), lowers, fds[0], mode)


def _note(staging: bytes) -> None:
    """Note how the tree in a staging directory is before a RUN changes it in place, unless one is gone on with."""
    from pybuild.layer.changes import settle

    fd = os.open(staging, _DIRECTORY)
    try:
        if ground.noted(fd, ground.TABLE) is None:
            tree = os.open(overlay.UPPER, _DIRECTORY, dir_fd=fd)
            ground.note(fd, ground.TABLE, msgspec.msgpack.encode(settle(tree)))
            os.close(tree)
    finally:
        os.close(fd)


def _pack(staging: bytes, tree: int, lowers: Sequence[bytes], tar: int, mode: str) -> Packed:
    """Pack what changed in the tree of a staging directory: all of an upper one's, else what differs from the note."""
    writer = TarWriter(tar)
    fd = os.open(staging, _DIRECTORY)
    try:
        table = ground.noted(fd, ground.TABLE)
        if table is None:
            pack_tree(tree, writer, lower_dirs=lowers, owners=_owners(mode))
        else:
            from pybuild.layer.changes import Table, pack_changes

            before = msgspec.msgpack.decode(table, type=Table)
            pack_changes(tree, writer, before, touched=set(ground.touched(fd)), owners=_owners(mode))
            ground.forget(fd)
    finally:
        os.close(fd)
    return writer.finish()


def ingest(params: Any, fds: list[int]) -> Packed:
    """[is it a layer]; descriptors: an archive of a stranger, compressed or not, and its uncompressed copy."""
    source, out = fds
    stream, _ = open_decompressed(source)
    with stream:
        return index_layer(stream, out_fd=out, markers=params[0])


def apply(params: Any, fds: list[int]) -> None:
    """[directory to make, entries of directories the layer leaves out, mode]; descriptor: an uncompressed layer."""
    path, parents, mode = params
    os.makedirs(path, 0o755)
    with os.fdopen(fds[0], "rb", buffering=1 << 20) as stream:
        apply_layer(
            stream,
            os.open(path, _DIRECTORY),
            Rules("overlay", _owners(mode)),
            parents=msgspec.convert(parents, list[Entry]),
        )


def flatten(params: Any, fds: list[int]) -> None:
    """[directory, made if missing, mode, entries of directories that a layer leaves out, for each]; descriptors:
    uncompressed layers, bottom first, laid over each other and over what is in the directory.
    """
    path, mode, left_out = params
    os.makedirs(path, 0o755, exist_ok=True)
    root = os.open(path, _DIRECTORY)
    for fd, entries in zip(fds, left_out, strict=True):
        parents = msgspec.convert(entries, list[Entry])
        with os.fdopen(fd, "rb", buffering=1 << 20) as stream:
            apply_layer(stream, root, Rules("delete", _owners(mode)), parents=parents)
        for entry in parents:
            _set_time(root, entry)


def _set_time(root: int, entry: Entry) -> None:
    """Give a directory the time it has in the merged tree: to change what is in it changed that."""
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
    try:
        fd = syscalls.openat2(root, entry.path or b".", _DIRECTORY, resolve)
    except (FileNotFoundError, NotADirectoryError):
        # The layer has something else in its place
        return
    os.utime(fd, ns=(entry.mtime, entry.mtime))
    os.close(fd)


def clone(params: Any, fds: list[int]) -> None:
    """[directory, new directory]: copy a tree, by reference where the file system can."""
    from pybuild.layer.clone import clone_tree

    source, dest = params
    os.mkdir(dest, 0o755)
    clone_tree(os.open(source, _DIRECTORY), os.open(dest, _DIRECTORY))


def try_store(params: Any, fds: list[int]) -> list[Any]:
    """[empty directory in the store, is an overlay of any use]: tell why overlayfs cannot be used there, "" if it can;
    if not, whether files can share their content.
    """
    path, stacking = params
    problem = overlay.trial(path) if stacking else "it is not to be used"
    if not problem:
        return ["", False]
    from pybuild.layer.clone import has_references

    place = os.open(path, _DIRECTORY)
    try:
        return [problem, has_references(place)]
    finally:
        os.close(place)


def unpack_context(params: Any, fds: list[int]) -> None:
    """[directory that is there, most bytes, most members, 0 for those of all archives]; descriptor: the archive,
    compressed or not.
    """
    path, size, files = params
    root = os.open(path, _DIRECTORY)
    limits = Limits(total=size or DEFAULT_LIMITS.total, entries=files or DEFAULT_LIMITS.entries)
    try:
        stream, _ = open_decompressed(fds[0], limits)
        with stream:
            extract_context(stream, root, limits)
    except LimitError as error:
        variable = {"total": "PYBUILD_MAX_CONTEXT_SIZE", "entries": "PYBUILD_MAX_CONTEXT_FILES"}.get(error.limit)
        if variable is None:
            raise
        told = error.message.replace("archive", "the context", 1)
        raise LimitError(told, f"leave more out by .dockerignore, or set {variable}", limit=error.limit) from error


def make_cache(params: Any, fds: list[int]) -> None:
    """[directory to make, its mode, uid, gid, id mode]; descriptor, if any: an uncompressed archive to fill it."""
    path, mode, uid, gid, id_mode = params
    os.mkdir(path, 0o755)
    root = os.open(path, _DIRECTORY)
    owners = _owners(id_mode)
    if fds:
        os.lseek(fds[0], 0, os.SEEK_SET)
        with os.fdopen(fds[0], "rb", buffering=1 << 20) as stream:
            apply_layer(stream, os.dup(root), Rules("delete", owners))
    if owners == "real":
        try:
            os.fchown(root, uid, gid)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise SandboxError(f"a cache cannot belong to {uid}:{gid}: these ids are not mapped here") from error
    elif (uid, gid) != (0, 0):
        os.setxattr(root, OWNER_XATTR, owner_note(uid, gid))
    os.fchmod(root, mode)


def remove(params: Any, fds: list[int]) -> None:
    """[directory]: remove it with all below it, whoever owns what, but for what was only lent to it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        directory = os.open(params[0], _DIRECTORY)
        try:
            ground.give_back(directory)
        finally:
            os.close(directory)
    parent, _, name = params[0].rstrip(b"/").rpartition(b"/")
    remove_tree(os.open(parent or b"/", _DIRECTORY), name)


def _owners(mode: str) -> Owners:
    return "xattr" if mode == "single" else "real"


JOBS: dict[str, Job] = {
    "run": run,
    "shell": shell,
    "pack": pack,
    "ingest": ingest,
    "apply": apply,
    "flatten": flatten,
    "clone": clone,
    "try_store": try_store,
    "unpack_context": unpack_context,
    "make_cache": make_cache,
    "remove": remove,
    "hold_network": hold,
}
