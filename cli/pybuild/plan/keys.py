"""Cache keys: what an op's result depends on, and nothing else. Never a date, never a name of a line.

The chain id of the layers below stands for the parent: a parent made anew with the same content keeps
the keys of all that follows.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

from pybuild.oci.digest import Digest, digest_of
from pybuild.plan.ops import (
    BindMount,
    CacheMount,
    CopyOp,
    FromContext,
    FromNamed,
    RemoteFile,
    RunMount,
    RunOp,
    SecretMount,
    SshMount,
    TmpfsMount,
    WorkdirOp,
)

VERSION = 1
"""Raised when the meaning of an op changes, so that no older result is taken for it."""


class Key(NamedTuple):
    """A key: the digest by which a result is kept, and what it is a digest of, for whoever asks why it is another."""

    text: str
    kind: str
    parts: Mapping[str, object]


def run_key(
    op: RunOp,
    chain: Digest | None,
    mode: str,
    options: dict[str, object],
    contents: Sequence[bytes] = (),
) -> Key:
    """Return the key of a RUN; `options` are the build-wide settings a command can notice.

    `contents` are digests of what the mounts read, in their order, b"" for one that reads nothing.
    """
    more: dict[str, object] = {}
    if op.mounts:
        more["mounts"] = [[*_mount(mount), content.hex()] for mount, content in zip(op.mounts, contents, strict=True)]
    if op.devices:
        # What a name stands for is no part of it: a device is not meant to be in the result
        more["devices"] = [[device.name, device.required] for device in op.devices]
    if op.insecure:
        more["security"] = "insecure"
    return _key(
        "run",
        chain=chain,
        platform=op.platform,
        mode=mode,
        argv=op.argv,
        env=op.env,
        cwd=op.cwd,
        user=op.user,
        # How a command is connected differs, what it may reach is meant to be the same
        network="default" if op.network == "private" else op.network,
        scripts=[[name, digest_of(content)] for name, content in op.scripts],
        options=options,
        **more,
    )


def _mount(mount: RunMount) -> list[object]:
    """Return what of a mount decides a result. Values of secrets do not, nor where a source's content lies."""
    match mount:
        case BindMount():
            return ["bind", mount.target, mount.read_only]
        case CacheMount():
            # What a cache is called, or who else uses it, is not meant to make a difference
            return ["cache", mount.target, mount.read_only, mount.mode, mount.uid, mount.gid]
        case TmpfsMount():
            return ["tmpfs", mount.target, mount.read_only, mount.size]
        case SecretMount():
            rights = [mount.mode, mount.uid, mount.gid]
            return ["secret", mount.id, mount.target, mount.env, mount.required, *rights]
        case SshMount():
            return ["ssh", mount.id, mount.target, mount.required, mount.mode, mount.uid, mount.gid]
        case _ as unreachable:
            assert_never(unreachable)


def copy_key(op: CopyOp, chain: Digest | None, content: bytes, epoch: int | None) -> Key:
    """Return the key of a COPY or ADD; `content` is the digest of what its sources select."""
    more: dict[str, object] = {}
    if op.parents:
        more["parents"] = True
    if op.excludes:
        more["excludes"] = op.excludes
    if op.remotes:
        # What they hold is part of the content, wherever it came from
        more["remotes"] = [
            [*(["file", remote.unpack] if isinstance(remote, RemoteFile) else ["tree"]), before]
            for remote, before in zip(op.remotes, op.preceding, strict=True)
        ]
    if (op.unpack or op.remotes) and len(op.sources) + len(op.inline) + len(op.remotes) > 1:
        # Later sources land on what earlier ones wrote, which was not always so
        more["in_turn"] = True
    if epoch is not None:
        more["times"] = "all"
    return _key(
        "copy",
        chain=None if op.link else chain,
        content=content.hex(),
        sources=op.sources,
        dest=op.dest,
        chown=op.chown,
        chmod=op.chmod,
        unpack=op.unpack,
        link=op.link,
        keeps_owner=not isinstance(op.source, FromContext | FromNamed),
        epoch=epoch,
        **more,
    )


def workdir_key(op: WorkdirOp, chain: Digest | None, epoch: int | None) -> Key:
    """Return the key of a WORKDIR."""
    return _key("workdir", chain=chain, path=op.path, user=op.user, epoch=epoch, always_a_layer=True)


def rewrite_key(diff_id: Digest, epoch: int) -> Key:
    """Return the key of a layer whose times were made not to be later than `epoch`."""
    return _key("rewrite", layer=diff_id, epoch=epoch)


def _key(kind: str, **parts: object) -> Key:
    encoded = json.dumps([kind, VERSION, parts], sort_keys=True, separators=(",", ":"))
    return Key(digest_of(encoded.encode()).removeprefix("sha256:"), kind, parts)
