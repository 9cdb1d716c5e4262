"""What goes to keep the store within a limit: what was used least recently, and no more of it than needed.

Images with a name, or in an index with one, stay, whatever they take. Of everything else each thing is a candidate by
itself, as old as its last use; a layer goes with the last cache record or nameless image or index that has it.
"""

import os
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pybuild.oci.digest import Digest
from pybuild.store.cache import BLOB
from pybuild.store.indexes import IndexRecord
from pybuild.store.place import RESERVE, allocated
from pybuild.store.sizes import layer_size

if TYPE_CHECKING:
    from pybuild.store.store import Store


class Limits(msgspec.Struct, frozen=True):
    """Bytes the store may take at most, and bytes that are to stay free on its disk; 0 is no limit."""

    max_size: int = 0
    min_free: int = 0

    def __bool__(self) -> bool:
        return bool(self.max_size or self.min_free)


class Victim(NamedTuple):
    """A thing that may go, by what it is called in its room of the store; `last_used` in seconds since the epoch."""

    last_used: float
    kind: str
    name: str


def excess(store: "Store", limits: Limits) -> int:
    """Return how many bytes are to go, 0 for none."""
    # A prune gives its reserve back meanwhile, and takes it again
    absent = RESERVE - allocated(store.place.reserve)
    missing = 0
    if limits.min_free:
        state = os.statvfs(store.place.root)
        missing = limits.min_free + absent - state.f_bavail * state.f_frsize
    if limits.max_size:
        missing = max(missing, _taken(store) + absent - limits.max_size)
    return max(missing, 0)


def _taken(store: "Store") -> int:
    """Return the bytes of the whole store, without walking trees whose size is known."""
    place = store.place
    files = (place.root / name for name in os.listdir(place.root) if name not in ("snapshots", "caches", "kept"))
    trees = sum(map(store.snapshots.size, store.snapshots.list()))
    mounts = sum(store.caches.size(cache.name) for cache in store.caches.list())
    kept = sum(map(store.kept.size, store.kept.steps()))
    return sum(map(allocated, files)) + trees + mounts + kept


def choose(store: "Store", missing: int, spared: frozenset[str] = frozenset()) -> list[Victim]:
    """Return what is to go so that `missing` bytes become free, least recently used first.

    Images whose ids are `spared` stay as if they had names.
    """
    accounts = _Accounts(store, spared)
    chosen: list[Victim] = []
    for victim in sorted(accounts.victims):
        if accounts.freed >= missing:
            break
        chosen.append(victim)
        accounts.take(victim)
    return chosen


class _Accounts:
    """Who needs which layer, and what becomes free when its last user goes."""

    def __init__(self, store: "Store", spared: frozenset[str]) -> None:
        self._store = store
        self.freed = 0
        self.victims: list[Victim] = []
        self._layers: dict[str, list[Digest]] = {}
        self._blobs: dict[str, str] = {}
        self._users: Counter[Digest] = Counter()
        self._pinned: set[Digest] = set()
        self._trees: dict[str, list[str]] = {}
        self._gone: set[str] = set()
        self._add_images(spared)
        for key, record in store.cache.list().items():
            self._add(Victim(record.last_used, "cache", key), [record.diff_id] if record.diff_id else [])
            if BLOB in record.value:
                self._blobs[key] = str(record.value[BLOB])
        for name, step in store.kept.steps().items():
            self.victims.append(Victim(step.created if step else 0.0, "kept", name))
            self._pinned.update(step.diff_ids if step else ())
        for cache in store.caches.list():
            self.victims.append(Victim(cache.last_used, "cache mount", cache.name))
        for path in store.downloads.paths():
            self.victims.append(Victim(path.stat().st_mtime, "download", path.name))
        for name in store.snapshots.list():
            self._trees.setdefault(name.rpartition("-")[2], []).append(name)
            self.victims.append(Victim(store.snapshots.last_used(name), "snapshot", name))

    def _add_images(self, spared: frozenset[str]) -> None:
        """Take in images and indexes; of an index without a name, its images go with it and not before."""
        loose: list[IndexRecord] = []
        kept: set[str] = set(spared)
        for index in self._store.indexes.list():
            if index.tags or index.id in spared:
                kept.update(index.images)
            else:
                loose.append(index)
        held = {image for index in loose for image in index.images}
        layers: dict[str, list[Digest]] = {}
        for image in self._store.images.list():
            if image.tags or image.id in kept:
                self._pinned.update(image.diff_ids)
            elif image.id in held:
                layers[image.id] = image.diff_ids
            else:
                self._add(Victim(image.created, "image", image.id), image.diff_ids)
        for index in loose:
            own = [diff_id for image in index.images for diff_id in layers.get(image, ())]
            self._add(Victim(index.created, "index", index.id), own)

    def _add(self, victim: Victim, layers: list[Digest]) -> None:
        self.victims.append(victim)
        self._layers[victim.name] = layers
        self._users.update(layers)

    def take(self, victim: Victim) -> None:
        """Count what becomes free without `victim`."""
        match victim.kind:
            case "snapshot":
                self._take_tree(victim.name)
            case "cache mount":
                self.freed += self._store.caches.size(victim.name)
            case "download":
                self.freed += allocated(self._store.place.downloads / victim.name)
            case "kept":
                self.freed += self._store.kept.size(victim.name)
            case _:
                if victim.name in self._blobs:
                    self.freed += allocated(self._store.blobs.path(Digest(self._blobs[victim.name])))
                for diff_id in self._layers[victim.name]:
                    self._users[diff_id] -= 1
                    if not self._users[diff_id] and diff_id not in self._pinned:
                        self.freed += layer_size(self._store, diff_id)
                        for name in self._trees.get(diff_id[7:], ()):
                            self._take_tree(name)

    def _take_tree(self, name: str) -> None:
        if name not in self._gone:
            self._gone.add(name)
            self.freed += self._store.snapshots.size(name)
