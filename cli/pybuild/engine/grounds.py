"""What RUN steps stand on: layers stacked by overlayfs, or a whole tree each that is changed in place.

A whole tree belongs to one RUN at a time. When that has ended well it is put into the store as the snapshot of its
chain of layers, and the next RUN of the stage takes it out again: a rename each way, nothing is copied. Where there is
no such tree it is made from the layers, which the store always has; so a tree that a failed step has spoilt is no loss.
Where files can share their content, a tree of an earlier build is copied that way and stays.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from pybuild.engine.snapshots import Snapshots, lay_over
from pybuild.oci.digest import Digest, chain_id
from pybuild.sandbox.ground import VARIABLE
from pybuild.sandbox.spec import Snapshotter
from pybuild.sandbox.volumes import Directory
from pybuild.tree.entry import DIR

if TYPE_CHECKING:
    from pybuild.engine.workers import Workers
    from pybuild.store.store import Store


class Ground(msgspec.Struct, frozen=True):
    """What a sandbox is given to stand on; `staging` is the caller's to remove."""

    staging: Path
    snapshotter: Snapshotter
    lowers: tuple[bytes, ...] = ()


class Grounds:
    """The grounds of a build; may be used by several threads.

    `wanted` is auto or a snapshotter, or "" for what PYBUILD_SNAPSHOTTER says.
    """

    def __init__(self, store: "Store", workers: "Workers", snapshots: Snapshots, wanted: str) -> None:
        self._store = store
        self._workers = workers
        self._snapshots = snapshots
        self._wanted = wanted or os.environ.get(VARIABLE) or "auto"
        self._lock = Lock()
        self._own: set[str] = set()
        self._set_gid: dict[Digest, list[bytes]] = {}

    @property
    def snapshotter(self) -> Snapshotter:
        """Return which one is used; with "auto" the store is tried once. Raises SandboxError."""
        return self._workers.snapshotter(self._wanted, self._store.snapshots.staging)

    def take(self, diff_ids: Sequence[Digest]) -> Ground:
        """Return the ground of a RUN on these layers. Raises SandboxError, LayerError, CancelledError."""
        if self.snapshotter == "overlay":
            lowers = self.lowers(diff_ids)
            return Ground(self._store.snapshots.staging(), "overlay", lowers)
        return Ground(self._tree(diff_ids), "copy")

    def keep(self, ground: Ground, below: Sequence[Digest], diff_id: Digest) -> None:
        """Keep the ground of a RUN that ended well, on the layers `below`, as the snapshot of its layer `diff_id`."""
        if ground.snapshotter == "overlay":
            name = self._snapshots.own_name(diff_id)
        else:
            name = self._name([*below, diff_id])
            with self._lock:
                self._own.add(name)
        if not self._store.snapshots.publish(ground.staging, name):
            self._workers.remove_later(ground.staging)

    def lowers(self, diff_ids: Sequence[Digest]) -> tuple[bytes, ...]:
        """Return the trees of layers for an overlay, bottom first."""
        return tuple(map(os.fsencode, self._snapshots.lowers(diff_ids)))

    def set_gid(self, diff_ids: Sequence[Digest]) -> tuple[bytes, ...]:
        """Return the paths of directories that any of these layers has as set-gid ones."""
        found: set[bytes] = set()
        for diff_id in diff_ids:
            paths = self._set_gid.get(diff_id)
            if paths is None:
                toc = self._store.layers.toc(diff_id)
                paths = [entry.path for entry in toc if entry.type == DIR and entry.mode & stat.S_ISGID]
                self._set_gid[diff_id] = paths
            found.update(paths)
        return tuple(sorted(found))

    @contextmanager
    def reading(self, diff_ids: Sequence[Digest]) -> Iterator[Path]:
        """Give the whole tree of these layers, not to be changed, until the end of the block."""
        name = self._name(diff_ids)
        while True:
            with self._store.snapshots.reading(name) as path:
                if path is not None:
                    yield path
                    return
            staging = self._tree(diff_ids)
            if not self._store.snapshots.publish(staging, name):
                self._workers.remove_later(staging)

    def view(
        self, stack: ExitStack, diff_ids: Sequence[Digest], target: bytes, source: bytes, *, read_only: bool
    ) -> Directory:
        """Return a volume of a part of these layers; what it needs is held by `stack`."""
        if read_only:
            path = stack.enter_context(self.reading(diff_ids))
        else:
            staging = self._tree(diff_ids)
            stack.callback(self._workers.remove_soon, staging)
            path = staging / "fs"
        return Directory(target, os.fsencode(path), source, read_only=read_only)

    def _name(self, diff_ids: Sequence[Digest]) -> str:
        chain = chain_id(list(diff_ids)) or "sha256:none"
        return f"{self._workers.mode[0]}-copy-{chain.removeprefix('sha256:')}"

    def _tree(self, diff_ids: Sequence[Digest]) -> Path:
        """Return a directory with the whole tree of these layers in `fs`: the nearest snapshot, and what is above."""
        for count in range(len(diff_ids), 0, -1):
            staging = self._from_snapshot(self._name(diff_ids[:count]))
            if staging is not None:
                break
        else:
            staging, count = self._store.snapshots.staging(), 0
        try:
            if count < len(diff_ids) or not diff_ids:
                lay_over(self._store, self._workers, staging / "fs", diff_ids, count)
        except BaseException:
            self._workers.remove(staging)
            raise
        return staging

    def _from_snapshot(self, name: str) -> Path | None:
        snapshots = self._store.snapshots
        if not snapshots.has(name):
            return None
        with self._lock:
            own = name in self._own
        if own or not self._workers.shares_content:
            return snapshots.take(name)
        with snapshots.reading(name) as source:
            if source is None:
                return None
            staging = snapshots.staging()
            try:
                self._workers.clone(source, staging / "fs")
            except BaseException:
                self._workers.remove(staging)
                raise
            return staging
