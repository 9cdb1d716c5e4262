"""Unpacked trees of layers, made only when a RUN needs one."""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from pybuild.engine.workers import Workers
from pybuild.oci.digest import Digest, chain_id
from pybuild.sandbox.spec import MAX_LAYERS
from pybuild.store.store import Store
from pybuild.tree.copy import keep_parents
from pybuild.tree.entry import WHITEOUT, Entry
from pybuild.tree.merged import MergedTree, ancestors

FLATTENED_AT_ONCE = 250
LAYERS_AT_ONCE = 32
"""How many go to a worker's job, as open files."""


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

        Of more layers than one overlay takes, the lowest ones are a single tree. Overlayfs takes no directory twice.
        Of a layer that comes again, as the empty one of a RUN that changes nothing does, the topmost place is enough:
        whatever the lower one shows or hides, the upper does too.
        """
        flat = flattened(len(diff_ids))
        trees: list[Path] = [self._flat(diff_ids[:flat])] if flat else []
        chain: Digest | None = None
        for count, diff_id in enumerate(diff_ids, 1):
            chain = chain_id([diff_id] if chain is None else [chain, diff_id])
            assert chain is not None
            if count <= flat:
                continue
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

    def _flat(self, diff_ids: Sequence[Digest]) -> Path:
        """Return one tree of all these layers, which is never changed."""
        chain = chain_id(list(diff_ids)) or ""
        name = f"{self._workers.mode[0]}-flat-{chain.removeprefix('sha256:')}"
        with self._lock_of(name):
            if not self._store.snapshots.has(name):
                self._flatten(name, diff_ids)
        return self._store.snapshots.path(name)

    def _flatten(self, name: str, diff_ids: Sequence[Digest]) -> None:
        staging = self._store.snapshots.staging()
        try:
            lay_over(self._store, self._workers, staging / "fs", diff_ids)
        except BaseException:
            self._workers.remove(staging)
            raise
        if not self._store.snapshots.publish(staging, name):
            self._workers.remove(staging)

    def _lock_of(self, name: str) -> Lock:
        with self._guard:
            return self._locks.setdefault(name, Lock())

    def _tree(self, diff_ids: Sequence[Digest]) -> Path:
        name = self.name(diff_ids)
        path = self._store.snapshots.path(name)
        if self._store.snapshots.has(name):
            self._store.snapshots.used(name)
            return path
        with self._lock_of(name):
            if not self._store.snapshots.has(name):
                self._unpack(name, diff_ids)
        return path

    def _unpack(self, name: str, diff_ids: Sequence[Digest]) -> None:
        parents = left_out(self._store, diff_ids)
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


def flattened(count: int) -> int:
    """Return how many of that many layers are made one tree, for the others to fit in an overlay together with it.

    It grows by many at once, as each of them is a copy of all files.
    """
    if count <= MAX_LAYERS:
        return 0
    return -(-(count + 1 - MAX_LAYERS) // FLATTENED_AT_ONCE) * FLATTENED_AT_ONCE


def lay_over(store: Store, workers: Workers, tree: Path, diff_ids: Sequence[Digest], count: int = 0) -> None:
    """Unpack the layers from the number `count` on over a tree of those before it, made when there are none."""
    for first in range(count, max(len(diff_ids), count + 1), LAYERS_AT_ONCE):
        numbers = range(first, min(first + LAYERS_AT_ONCE, len(diff_ids)))
        parents = [left_out(store, diff_ids[: number + 1]) for number in numbers]
        layers: list[int] = []
        try:
            layers.extend(store.blobs.open(diff_ids[number]) for number in numbers)
            workers.flatten(layers, tree, parents)
        finally:
            for layer in layers:
                os.close(layer)


def left_out(store: Store, diff_ids: Sequence[Digest]) -> list[Entry]:
    """Return how the directories look that the top layer leaves out although it has something in them."""
    toc = store.layers.toc(diff_ids[-1])
    if is_complete(toc):
        return []
    below = MergedTree([store.layers.toc(diff_id) for diff_id in diff_ids[:-1]])
    return keep_parents((entry.path for entry in toc), below)


def is_complete(toc: Sequence[Entry]) -> bool:
    """Does the table list every directory above each of its paths?"""
    listed = {entry.path for entry in toc if entry.type != WHITEOUT}
    parents = {entry.path.rpartition(b"/")[0] for entry in toc} - {b""}
    return all(parent in listed and all(above in listed for above in ancestors(parent)) for parent in parents)
