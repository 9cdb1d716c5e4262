"""What `RUN --mount` asks for, made ready for the sandbox: trees, caches, secrets and agents."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never

import msgspec

from pybuild.api.events import Notice
from pybuild.engine import copying
from pybuild.engine.sources import Source, stage_source
from pybuild.errors import PybuildError
from pybuild.oci.digest import Digest, chain_id, digest_of
from pybuild.plan.ops import (
    BindMount,
    CacheMount,
    CopyOp,
    FromContext,
    FromNamed,
    FromScratch,
    MountSource,
    RunOp,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from pybuild.sandbox.overlay import UPPER, WORK
from pybuild.sandbox.volumes import Directory, File, Layers, Memory, Socket, Volume
from pybuild.store.caches import Sharing
from pybuild.tree.copy import Selected, content_key, select_plain

if TYPE_CHECKING:
    from pybuild.engine.solve import Inputs
    from pybuild.store.blobs import BlobWriter
    from pybuild.tree.listing import Listing

MAX_CACHES = 40
"""Most caches of one RUN: each is a descriptor that goes along with it."""

_STRICTNESS = ("shared", "private", "locked")


class Reads(Protocol):
    """How mounts get at what they read."""

    def open(self, source: MountSource) -> AbstractContextManager[Source]:
        """Give a source until the end of the block."""

    def layers(self, source: MountSource) -> list[Digest] | None:
        """Return the layers of a stage or image, None for a context."""

    def check(self) -> None:
        """Raise CancelledError when the build is to end."""

    def found(self, source: MountSource, selections: Sequence[Selected]) -> None:
        """Hear what was selected of a context."""


class Mounted(msgspec.Struct, frozen=True):
    """What a sandbox is given. `locks` are descriptors it has to hold; `secrets` must not be seen in its output."""

    volumes: tuple[Volume, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    locks: tuple[int, ...] = ()
    secrets: tuple[bytes, ...] = ()


def contents(op: RunOp, inputs: "Inputs", reads: Reads) -> list[bytes]:
    """Return a digest of what each mount reads, b"" for nothing. Raises SourceNotFoundError and ContextError."""
    return [
        _content(mount.source, mount.path, inputs, reads) if isinstance(mount, BindMount | CacheMount) else b""
        for mount in op.mounts
    ]


def _content(source: MountSource | None, path: str, inputs: "Inputs", reads: Reads) -> bytes:
    if source is None or isinstance(source, FromScratch):
        return b""
    layers = reads.layers(source)
    if layers is None:
        with reads.open(source) as opened:
            selections = [select_plain(opened.tree, path)]
            reads.found(source, selections)
            return content_key(selections, opened.digest)
    # Of a whole image that takes a while, and it is the same the next time
    key = digest_of(json.dumps([chain_id(layers) or "", path]).encode())
    known = inputs.store.cache.memo_get("mount", key)
    if known is None:
        with stage_source(inputs.store, layers) as opened:
            known = content_key([select_plain(opened.tree, path)], opened.digest)
        inputs.store.cache.memo_put("mount", key, known)
    return known


def listed(op: RunOp, reads: Reads) -> "Listing | None":
    """Return the files of contexts that the mounts of a RUN read, None when they read none."""
    from pybuild.tree.listing import listing, together

    found: list[Listing] = []
    for mount in op.mounts:
        if isinstance(mount, BindMount | CacheMount) and isinstance(mount.source, FromContext | FromNamed):
            with reads.open(mount.source) as opened:
                found.append(listing([select_plain(opened.tree, mount.path)], opened.digest))
    return together(found) if found else None


@contextmanager
def mounted(op: RunOp, inputs: "Inputs", reads: Reads, digests: list[bytes]) -> Iterator[Mounted]:
    """Give what the mounts of a RUN need until the end of the block; `digests` are its `contents`.

    Raises PybuildError for a secret or an agent that is required and was not given, and for what cannot be made.
    """
    if not op.mounts and not op.devices:
        yield Mounted()
        return
    with ExitStack() as stack:
        preparing = _Preparing(inputs, reads, stack)
        if op.devices:
            preparing.add_devices(op)
        both = list(zip(op.mounts, digests, strict=True))
        # Caches last: while one is waited for, or held, nothing is to be done but that
        for mount, digest in both:
            if not isinstance(mount, CacheMount):
                preparing.add(mount, digest)
        preparing.add_caches([(mount, digest) for mount, digest in both if isinstance(mount, CacheMount)])
        yield Mounted(tuple(preparing.volumes), tuple(preparing.env), tuple(preparing.locks), tuple(preparing.secrets))


class _Preparing:
    def __init__(self, inputs: "Inputs", reads: Reads, stack: ExitStack) -> None:
        self._in = inputs
        self._reads = reads
        self._stack = stack
        self._scratch: Path | None = None
        self._views = 0
        self.volumes: list[Volume] = []
        self.env: list[tuple[str, str]] = []
        self.locks: list[int] = []
        self.secrets: list[bytes] = []

    def add(self, mount: BindMount | TmpfsMount | SecretMount | SshMount, digest: bytes) -> None:
        target = os.fsencode(mount.target)
        match mount:
            case BindMount():
                self.volumes.append(self._bind(mount, target, digest))
            case TmpfsMount():
                self.volumes.append(Memory(target, mount.size, mount.read_only))
            case SecretMount():
                self._secret(mount, target)
            case SshMount():
                self._agent(mount, target)
            case _ as unreachable:
                assert_never(unreachable)

    def add_devices(self, op: RunOp) -> None:
        from pybuild.engine import devices

        def warn(text: str) -> None:
            self._in.emit(Notice("warning", text))

        asked = devices.find(op.devices, self._in.request.allow, warn)
        found = devices.given(asked, warn, keeps_groups=self._in.workers.mode == "single")
        self.volumes += found.volumes
        self.env += found.env.items()

    # Binds

    def _bind(self, mount: BindMount, target: bytes, digest: bytes) -> Volume:
        layers = [] if isinstance(mount.source, FromScratch) else self._reads.layers(mount.source)
        source = os.fsencode(mount.path)
        if layers is None:
            with self._reads.open(mount.source) as opened:
                selected = select_plain(opened.tree, mount.path)
                tree = self._in.binds.get(_origin(mount.source), selected, digest, opened)
            if mount.read_only:
                return Directory(target, os.fsencode(tree.path), tree.source, read_only=True)
            if self._in.grounds.snapshotter == "copy":
                return Directory(target, self._copy(tree.path), tree.source)
            lowers: tuple[bytes, ...] = (os.fsencode(tree.path),)
            source = tree.source
        elif self._in.grounds.snapshotter == "copy":
            return self._in.grounds.view(self._stack, layers, target, source, read_only=mount.read_only)
        else:
            lowers = self._in.grounds.lowers(layers)
        scratch = self._new_view()
        return Layers(target, lowers or (scratch + b"/empty",), scratch, source, mount.read_only)

    def _copy(self, tree: Path) -> bytes:
        """Return a copy of a tree, for what is written to a mount, and thrown away."""
        staging = self._in.store.snapshots.staging()
        self._stack.callback(self._in.workers.remove_soon, staging)
        self._in.workers.clone(tree, staging / "fs")
        return os.fsencode(staging / "fs")

    def _new_view(self) -> bytes:
        """Return a new directory for what is written to a mount, and thrown away."""
        if self._scratch is None:
            self._scratch = self._in.store.snapshots.staging()
            self._stack.callback(self._in.workers.remove_soon, self._scratch)
        view = self._scratch / str(self._views)
        self._views += 1
        view.mkdir(mode=0o700)
        for name in (os.fsdecode(UPPER), os.fsdecode(WORK), "empty"):
            (view / name).mkdir(mode=0o755)
        return os.fsencode(view)

    # Caches

    def add_caches(self, mounts: list[tuple[CacheMount, bytes]]) -> None:
        """Take hold of all caches, in an order all builds have: else two could wait for each other."""
        named = [(_cache_name(mount, digest, self._in.workers.mode), mount) for mount, digest in mounts]
        strictest: dict[str, CacheMount] = {}
        for name, mount in named:
            before = strictest.get(name)
            if before is None or _STRICTNESS.index(mount.sharing) > _STRICTNESS.index(before.sharing):
                strictest[name] = mount
        if len(strictest) > MAX_CACHES:
            raise PybuildError(f"RUN has more than {MAX_CACHES} caches: {len(strictest)}")
        held = {name: self._take_cache(name, strictest[name]) for name in sorted(strictest)}
        for name, mount in named:
            # What filled it is all of it, else the source is looked for in what has come together
            source = b"" if mount.source else os.fsencode(mount.path)
            path = os.fsencode(held[name])
            self.volumes.append(Directory(os.fsencode(mount.target), path, source, mount.read_only))

    def _take_cache(self, name: str, mount: CacheMount) -> Path:
        held = self._stack.enter_context(
            self._in.store.caches.use(
                name,
                self._sharing_of(mount),
                id=mount.id,
                target=mount.target,
                make=lambda path: self._make_cache(path, mount),
                discard=self._in.workers.remove,
                wait=self._waiting(mount),
            )
        )
        self.locks.append(held.lock)
        return held.path

    def _sharing_of(self, mount: CacheMount) -> Sharing:
        # Without mounts it is lent to one RUN, moved into its tree
        return "locked" if self._in.workers.isolation == "chroot" else _sharing(mount.sharing)

    def _waiting(self, mount: CacheMount) -> Callable[[], None]:
        told = False

        def wait() -> None:
            nonlocal told
            self._reads.check()
            if not told:
                told = True
                self._in.emit(Notice("info", f"waiting for a cache that is in use: {mount.id.removeprefix('/')}"))

        return wait

    def _make_cache(self, path: Path, mount: CacheMount) -> None:
        rights = (mount.mode, mount.uid, mount.gid)
        if mount.source is None or isinstance(mount.source, FromScratch):
            self._in.workers.make_cache(path, *rights)
            return
        with self._reads.open(mount.source) as source, self._in.store.blobs.create() as blob:
            selected = select_plain(source.tree, mount.path)
            if not selected.is_dir:
                raise PybuildError(f"source of a cache is no directory: /{mount.path}")
            _pack(selected, source, self._in, blob)
            top = selected.entries[0]
            given = rights != (0o755, 0, 0)
            self._in.workers.make_cache(path, *(rights if given else (top.mode, top.uid, top.gid)), content=blob.fd)

    # Secrets and agents

    def _secret(self, mount: SecretMount, target: bytes) -> None:
        secret = self._in.request.secrets.get(mount.id)
        if secret is None:
            if mount.required:
                raise PybuildError(
                    f"secret is required and was not given: {mount.id}", f"build with `--secret id={mount.id},src=FILE`"
                )
            return
        self.secrets.append(secret.value)
        if mount.target:
            self.volumes.append(File(target, secret.value, mount.mode, mount.uid, mount.gid))
        if mount.env:
            if b"\0" in secret.value:
                raise PybuildError(f"secret holds a NUL byte and cannot be a variable: {mount.id}")
            self.env.append((mount.env, os.fsdecode(secret.value)))

    def _agent(self, mount: SshMount, target: bytes) -> None:
        given = next((agent for agent in self._in.request.ssh if agent.id == mount.id), None)
        if given is None:
            if mount.required:
                name = "" if mount.id == "default" else f"{mount.id}="
                raise PybuildError(
                    f"ssh agent is required and was not given: {mount.id}",
                    f"build with `--ssh {name or 'default'}{'KEY' if name else ''}`",
                )
            return
        from pybuild.engine.agents import forwarded

        socket = self._stack.enter_context(forwarded(given, self._in.store, mount.mode))
        self.volumes.append(Socket(target, os.fsencode(socket), mount.uid, mount.gid))


def _cache_name(mount: CacheMount, content: bytes, mode: str) -> str:
    """Return the name of a cache: a digest, as ids are anything. Files of one id mode mean nothing in another."""
    parts = [mount.id, content.hex(), mount.mode, mount.uid, mount.gid]
    return f"{mode[0]}-{digest_of(json.dumps(parts).encode()).removeprefix('sha256:')}"


def _sharing(text: str) -> Sharing:
    match text:
        case "private":
            return "private"
        case "locked":
            return "locked"
        case _:
            return "shared"


def _origin(source: MountSource) -> str:
    return "context" if isinstance(source, FromContext) else repr(source)


def _pack(selected: Selected, source: Source, inputs: "Inputs", blob: "BlobWriter") -> None:
    """Write what is selected as an archive that has it at its top."""
    op = CopyOp(instruction="COPY", source=FromContext(), sources=(), inline=(), dest="/", link=True)
    step = copying.Copying(op, source, [selected], lambda done, total: None)
    with stage_source(inputs.store, []) as nothing:
        copying.pack(step, nothing, inputs.store, inputs.workers, blob)
