"""What the worker can be asked to do. Each job runs in a process of its own inside the user namespace."""

import os
import socket
from typing import Any

import msgspec

from pybuild.layer.apply import Rules, apply_layer, extract_context
from pybuild.layer.decompress import open_decompressed
from pybuild.layer.index import index_layer
from pybuild.layer.pack import pack_tree
from pybuild.layer.remove import remove_tree
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.sandbox.child import Job
from pybuild.sandbox.run import run as run_sandbox
from pybuild.sandbox.spec import RunEnd, SandboxSpec
from pybuild.tree.entry import Entry


class RunResult(msgspec.Struct, frozen=True):
    """How a RUN ended, and its packed changes when that was well."""

    end: RunEnd
    packed: Packed | None = None


def run(params: Any, fds: list[int], life: socket.socket) -> RunResult:
    """[spec, mode]; descriptors: standard output, standard error, the layer to be."""
    spec = msgspec.convert(params[0], SandboxSpec)
    stdout, stderr, tar = fds
    end = run_sandbox(spec, params[1], stdout, stderr, life)
    if end.status != 0 or end.problem:
        return RunResult(end)
    writer = TarWriter(tar)
    root = os.open(spec.staging + b"/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pack_tree(root, writer, lower_dirs=list(spec.lowers), owners="xattr" if params[1] == "single" else "real")
    packed = writer.finish()
    staging = os.open(spec.staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in (b"work", b"files", b"empty"):
        remove_tree(staging, name)
    return RunResult(end, packed)


def ingest(params: Any, fds: list[int], life: socket.socket) -> Packed:
    """[is it a layer]; descriptors: an archive of a stranger, compressed or not, and its uncompressed copy."""
    source, out = fds
    stream, _ = open_decompressed(source)
    with stream:
        return index_layer(stream, out_fd=out, markers=params[0])


def apply(params: Any, fds: list[int], life: socket.socket) -> None:
    """[directory to make, entries of directories the layer leaves out, mode]; descriptor: an uncompressed layer."""
    path, parents, mode = params
    os.makedirs(path, 0o755)
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    rules = Rules("overlay", "xattr" if mode == "single" else "real")
    with os.fdopen(os.dup(fds[0]), "rb", buffering=1 << 20) as file:
        apply_layer(file, root, rules, parents=msgspec.convert(parents, list[Entry]))


def unpack_context(params: Any, fds: list[int], life: socket.socket) -> None:
    """[directory that is there]; descriptor: the archive, compressed or not."""
    root = os.open(params[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stream, _ = open_decompressed(fds[0])
    with stream:
        extract_context(stream, root)


def remove(params: Any, fds: list[int], life: socket.socket) -> None:
    """[directory]: remove it with all below it, whoever owns what."""
    parent, _, name = params[0].rpartition(b"/")
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    remove_tree(fd, name)


JOBS: dict[str, Job] = {
    "run": run,
    "ingest": ingest,
    "apply": apply,
    "unpack_context": unpack_context,
    "remove": remove,
}
