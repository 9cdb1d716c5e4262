"""What the worker can be asked to do. Each job runs in a process of its own inside the user namespace.

A job gets parameters in plain types and descriptors, which end with its process. Only jobs open what strangers
made and touch files of mapped ids.
"""

import errno
import os
from typing import Any

import msgspec

from pybuild.layer.apply import Rules, apply_layer, extract_context
from pybuild.layer.decompress import open_decompressed
from pybuild.layer.index import index_layer
from pybuild.layer.pack import Owners, pack_tree
from pybuild.layer.remove import remove_tree
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.sandbox.child import Job
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.holder import hold
from pybuild.sandbox.idmap import is_mode
from pybuild.sandbox.run import run as run_sandbox
from pybuild.sandbox.spec import RunEnd, SandboxSpec
from pybuild.tree.entry import Entry
from pybuild.tree.notes import OWNER_XATTR, owner_note

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
        writer = TarWriter(tar)
        pack_tree(upper, writer, lower_dirs=spec.lowers, owners=_owners(mode))
        return writer.finish()

    try:
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
    return run_sandbox(spec, mode, stdout, stderr, lambda _: None, namespace, others, stdin)[0]


def pack(params: Any, fds: list[int]) -> Packed:
    """[changed tree, directories of the layers below, mode]; descriptor: the layer to be."""
    path, lowers, mode = params
    writer = TarWriter(fds[0])
    pack_tree(os.open(path, _DIRECTORY), writer, lower_dirs=lowers, owners=_owners(mode))
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
    """[directory to make, mode]; descriptors: uncompressed layers, bottom first, laid over each other."""
    path, mode = params
    os.makedirs(path, 0o755)
    root = os.open(path, _DIRECTORY)
    for fd in fds:
        with os.fdopen(fd, "rb", buffering=1 << 20) as stream:
            apply_layer(stream, root, Rules("delete", _owners(mode)))


def unpack_context(params: Any, fds: list[int]) -> None:
    """[directory that is there]; descriptor: the archive, compressed or not."""
    root = os.open(params[0], _DIRECTORY)
    stream, _ = open_decompressed(fds[0])
    with stream:
        extract_context(stream, root)


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
    """[directory]: remove it with all below it, whoever owns what."""
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
    "unpack_context": unpack_context,
    "make_cache": make_cache,
    "remove": remove,
    "hold_network": hold,
}
