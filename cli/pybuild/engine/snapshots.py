"""Unpacked trees of layers, made only when a RUN needs one."""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from pybuild.engine.workers import Workers
from pybuild.oci.digest import Digest, chain_id
from pybuild.store.store import Store
from pybuild.tree.copy import keep_parents
from pybuild.tree.entry import WHITEOUT, Entry
from pybuild.tree.merged import MergedTree, ancestors


class Snapshots:
    """The snapshots of a build; `lowers` makes what is missing, once even when several threads ask."""

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self._guard = Lock()
        self._locks: dict[str, Lock] = {}
        self._found: dict[Digest, Path] = {}

    def lowers(self, diff_ids: Sequence[Digest]) -> list[Path]:
        """Return the unpacked trees to stack, bottom first.

        Overlayfs takes no directory twice. Of a layer that comes again, as the empty one of a RUN that changes
        nothing does, the topmost place is enough: whatever the lower one shows or hides, the upper does too.
        """
        trees: list[Path] = []
        chain: Digest | None = None
        for count, diff_id in enumerate(diff_ids, 1):
            chain = chain_id([diff_id] if chain is None else [chain, diff_id])
            assert chain is not None
            # What was found once stays: nothing is pruned under a build
            tree = self._found.get(chain)
            if tree is None:
                tree = self._found[chain] = self._tree(diff_ids[:count])
            trees.append(tree)
        return list(dict.fromkeys(reversed(trees)))[::-1]

    def name(self, diff_ids: Sequence[Digest]) -> str:
        """Return the name of the top layer's snapshot.

        A layer that lists all its directories looks the same on every stack; for others the directories
        below decide how the missing ones look, so the whole chain names the snapshot.
        """
        identity = diff_ids[-1] if is_complete(self._store.layers.toc(diff_ids[-1])) else chain_id(list(diff_ids))
        return self.own_name(identity or diff_ids[-1])

    def own_name(self, identity: Digest) -> str:
        """Return the snapshot name of a layer that lists all its directories."""
        return f"{self._workers.mode[0]}-{identity.removeprefix('sha256:')}"

    def _tree(self, diff_ids: Sequence[Digest]) -> Path:
        name = self.name(diff_ids)
        path = self._store.snapshots.path(name)
        if self._store.snapshots.has(name):
            return path
        with self._guard:
            lock = self._locks.setdefault(name, Lock())
        with lock:
            if not self._store.snapshots.has(name):
                self._unpack(name, diff_ids)
        return path

    def _unpack(self, name: str, diff_ids: Sequence[Digest]) -> None:
        parents: list[Entry] = []
        toc = self._store.layers.toc(diff_ids[-1])
        if not is_complete(toc):
            below = MergedTree([self._store.layers.toc(diff_id) for diff_id in diff_ids[:-1]])
            parents = keep_parents((entry.path for entry in toc), below)
        staging = self._store.snapshots.staging()
        layer = self._store.blobs.open(diff_ids[-1])
        try:
            self._workers.apply(layer, staging / "fs", parents)
        except BaseException:
            self._workers.remove(staging)
            raise
        finally:
            os.close(layer)
        if not self._store.snapshots.publish(staging, name):
            self._workers.remove(staging)


def is_complete(toc: Sequence[Entry]) -> bool:
    """Does the table list every directory above each of its paths?"""
    listed = {entry.path for entry in toc if entry.type != WHITEOUT}
    parents = {entry.path.rpartition(b"/")[0] for entry in toc} - {b""}
    return all(parent in listed and all(above in listed for above in ancestors(parent)) for parent in parents)
