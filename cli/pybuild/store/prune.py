"""What nothing needs any more, and how much of the disk is used by what.

Needed are images with a name (without `all`: all that a cache record or an image without a name could not be spared
for), their layers, and the layers of cache records. A plan is made from the index first, so that a dry run tells what a
real one would do.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pybuild.oci.digest import Digest, chain_id
from pybuild.store.cache import BLOB, CacheRecord
from pybuild.store.caches import CacheDirectory
from pybuild.store.errors import disk_error
from pybuild.store.images import ImageRecord
from pybuild.store.place import allocated, hold_reserve, is_left_over, release_reserve, remove_own

if TYPE_CHECKING:
    from pybuild.store.store import Store

RemoveTree = Callable[[Path], object]
"""Removes a tree that may belong to mapped ids; may fail silently, what is left is taken the next time."""


class Pruned(msgspec.Struct, frozen=True):
    """A thing that was removed, or would be.

    `kind` is image, cache, layer, blob, snapshot, kept, cache mount, context or temporary. `size` are allocated bytes,
    each byte counted with one thing only. `last_used` in seconds since the epoch, 0 when unknown.
    """

    kind: str
    name: str
    size: int
    reason: str
    last_used: float = 0.0


class PruneReport(msgspec.Struct, frozen=True):
    """What a prune removed, or would."""

    items: tuple[Pruned, ...]

    @property
    def reclaimed(self) -> int:
        """Return the allocated bytes of all items."""
        return sum(item.size for item in self.items)


class Usage(msgspec.Struct, frozen=True):
    """How much one kind of things takes: allocated bytes (`st_blocks`); all rows add up to the whole store."""

    type: str
    total: int
    active: int
    size: int
    reclaimable: int


class _Plan(msgspec.Struct):
    images: list[tuple[ImageRecord, str]] = msgspec.field(default_factory=list)
    cache: list[tuple[str, CacheRecord, str]] = msgspec.field(default_factory=list)
    layers: list[Digest] = msgspec.field(default_factory=list)
    files: list[tuple[Path, str]] = msgspec.field(default_factory=list)
    snapshots: list[tuple[str, str]] = msgspec.field(default_factory=list)
    caches: list[tuple[CacheDirectory, str]] = msgspec.field(default_factory=list)
    contexts: list[Path] = msgspec.field(default_factory=list)
    kept: list[str] = msgspec.field(default_factory=list)
    memos: bool = False


def prune(
    store: "Store",
    *,
    all: bool,
    until: float | None,
    labels: Sequence[str],
    only_caches: Sequence[str] | None,
    dry_run: bool,
    remove_tree: RemoveTree | None,
) -> PruneReport:
    """See Store.prune."""

    def planned() -> _Plan:
        if only_caches is None:
            return _plan(store, all, until, labels)
        return _Plan(caches=_chosen_caches(store, only_caches, until))

    if dry_run:
        return PruneReport(tuple(_told(store, planned(), _left_over(store))))
    with store.exclusive():
        # What removes things writes first: names go before content
        release_reserve(store.place)
        try:
            store.cache.flush()
            plan = planned()
            left_over = _left_over(store)
            items = list(_told(store, plan, left_over))
            gone = _carry_out(store, plan, left_over, remove_tree or remove_own)
        finally:
            hold_reserve(store.place)
        trees = ("snapshot", "kept", "cache mount", "temporary")
        return PruneReport(tuple(item for item in items if item.kind not in trees or item.name in gone))


def _plan(store: "Store", all: bool, until: float | None, labels: Sequence[str]) -> _Plan:
    plan = _Plan(memos=all and until is None and not labels)
    kept_images: list[ImageRecord] = []
    for image in store.images.list():
        if image.tags or not _matches(image, until, labels):
            kept_images.append(image)
        else:
            plan.images.append((image, "no name points at it"))
    recorded = {Digest(row[0]) for row in store.index.rows("SELECT diff_id FROM layers")}
    needed = {diff_id for image in kept_images for diff_id in image.diff_ids}
    for name, step in store.kept.steps().items():
        if step is None or not store.kept.has(name) or (not labels and (until is None or step.created < until)):
            plan.kept.append(name)
        else:
            needed.update(step.diff_ids)
    blobs: set[str] = set()
    for key, record in store.cache.list().items():
        reason = _stale(record, recorded, needed, all=all and not labels, until=None if labels else until)
        if reason:
            plan.cache.append((key, record, reason))
            continue
        if record.diff_id is not None:
            needed.add(record.diff_id)
        if BLOB in record.value:
            blobs.add(str(record.value[BLOB]))
    plan.layers = sorted(recorded - needed)
    live = recorded & needed
    plan.files = list(_unknown_files(store, live, plan.layers, kept_images, blobs))
    plan.snapshots = list(_dead_snapshots(store, live, kept_images))
    if not labels:
        plan.caches = list(_old_caches(store, all, until))
    if not labels and (all or until is not None):
        contexts = _entries(store.place.contexts)
        plan.contexts = [path for path in contexts if until is None or path.stat().st_mtime < until]
    return plan


def _old_caches(store: "Store", all: bool, until: float | None) -> Iterator[tuple[CacheDirectory, str]]:
    for cache in store.caches.list():
        if until is not None:
            if cache.last_used < until:
                yield cache, "not used lately"
        elif all:
            yield cache, "all of the cache was asked for"
        elif not cache.created:
            yield cache, "it was never completed"


def _chosen_caches(store: "Store", ids: Sequence[str], until: float | None) -> list[tuple[CacheDirectory, str]]:
    return [
        (cache, "it was asked for")
        for cache in store.caches.list()
        if (not ids or cache.shown in ids) and (until is None or cache.last_used < until)
    ]


def _matches(image: ImageRecord, until: float | None, labels: Sequence[str]) -> bool:
    if until is not None and image.created >= until:
        return False
    return all(_has_label(image, label) for label in labels)


def _has_label(image: ImageRecord, text: str) -> bool:
    if text.startswith("!"):
        return not _has_label(image, text[1:])
    key, equals, value = text.partition("=")
    present = image.config.config.Labels or {}
    return key in present and (not equals or present[key] == value)


def _stale(record: CacheRecord, layers: set[Digest], needed: set[Digest], *, all: bool, until: float | None) -> str:
    """Return why a cache record should go, "" when it should stay."""
    if record.diff_id is not None and record.diff_id not in layers:
        return "its layer is gone"
    if until is not None:
        return "not used lately" if record.last_used < until else ""
    if not all:
        return ""
    return "all of the cache was asked for"


def _unknown_files(
    store: "Store", live: set[Digest], doomed: Iterable[Digest], images: Iterable[ImageRecord], blobs: set[str]
) -> Iterator[tuple[Path, str]]:
    """Yield files of blobs and tables that belong to nothing that stays, and to no layer that is told of anyway.

    `blobs` are others that are needed.
    """
    forms: dict[Digest, list[str]] = {}
    for diff_id, digest in store.index.rows("SELECT diff_id, digest FROM forms"):
        forms.setdefault(Digest(diff_id), []).append(digest)
    known: set[str] = {*live, *doomed, *blobs, *(image.id for image in images)}
    for diff_id in (*live, *doomed):
        known.update(forms.get(diff_id, ()))
    for path in _entries(store.place.blobs):
        if f"sha256:{path.name}" not in known:
            yield path, "nothing refers to it"
    for path in _entries(store.place.tocs):
        if f"sha256:{path.name}" not in known:
            yield path, "its layer is gone"


def _dead_snapshots(store: "Store", live: set[Digest], images: Iterable[ImageRecord]) -> Iterator[tuple[str, str]]:
    """A snapshot's name ends in the hex digits of a diff_id or of a chain id."""
    wanted: set[str] = {digest[7:] for digest in live}
    for image in images:
        for count in range(len(image.diff_ids)):
            chain = chain_id(image.diff_ids[: count + 1])
            if chain is not None:
                wanted.add(chain[7:])
    for name in store.snapshots.list():
        if name.rpartition("-")[2] not in wanted:
            yield name, "no image or cache record has its layer"
        elif not store.snapshots.has(name):
            yield name, "it was not completed or not flushed before a reboot"


def _left_over(store: "Store") -> list[Path]:
    """Return what dead processes left in `tmp`."""
    now = time.time()
    found = []
    for path in _entries(store.place.tmp):
        try:
            if is_left_over(path.name, path.lstat(), now):
                found.append(path)
        except FileNotFoundError:
            continue
    return found


def _told(store: "Store", plan: _Plan, left_over: Iterable[Path]) -> Iterator[Pruned]:
    for image, reason in plan.images:
        yield Pruned("image", image.id, 0, reason, image.created)
    for key, record, reason in plan.cache:
        yield Pruned("cache", record.description or key, 0, reason, record.last_used)
    used = {record.diff_id: record.last_used for _, record, _ in reversed(plan.cache)}
    for diff_id in plan.layers:
        size = _layer_size(store, diff_id)
        yield Pruned("layer", diff_id, size, "no image or cache record has it", used.get(diff_id, 0.0))
    for path, reason in plan.files:
        yield Pruned("blob", f"sha256:{path.name}", allocated(path), reason)
    for name, reason in plan.snapshots:
        yield Pruned("snapshot", name, store.snapshots.size(name), reason)
    for cache, reason in plan.caches:
        yield Pruned("cache mount", cache.shown, store.caches.size(cache.name), reason, cache.last_used)
    for name in plan.kept:
        yield Pruned("kept", name, store.kept.size(name), "what a failed step had done, kept for a look into it")
    for path in plan.contexts:
        yield Pruned("context", path.name, allocated(path), "its file digests are found again by reading")
    for path in left_over:
        yield Pruned("temporary", path.name, allocated(path), "left by a process that is gone")


def _layer_size(store: "Store", diff_id: Digest) -> int:
    forms = store.index.rows("SELECT digest FROM forms WHERE diff_id = ?", (diff_id,))
    paths = {store.blobs.path(Digest(digest)) for digest in (diff_id, *(digest for (digest,) in forms))}
    return sum(allocated(path) for path in paths) + allocated(store.place.tocs / diff_id[7:])


def _carry_out(store: "Store", plan: _Plan, left_over: Iterable[Path], remove_tree: RemoveTree) -> set[str]:
    """Remove what is planned, names before content; return the names of the trees that are really gone."""
    for image, _ in plan.images:
        store.images.delete(image.id)
    for key, _, _ in plan.cache:
        store.cache.delete(key)
    for diff_id in plan.layers:
        store.layers.delete(diff_id)
    for path, _ in plan.files:
        if path.parent == store.place.blobs:
            store.blobs.delete(Digest(f"sha256:{path.name}"))
        else:
            path.unlink(missing_ok=True)
    for path in plan.contexts:
        path.unlink(missing_ok=True)
    gone: set[str] = set()
    for name, _ in plan.snapshots:
        trash = store.snapshots.trash(name)
        if trash is None or _remove(trash, remove_tree):
            gone.add(name)
    for cache, _ in plan.caches:
        trash = store.caches.trash(cache.name)
        if trash is None or _remove(trash, remove_tree):
            gone.add(cache.shown)
    gone.update(name for name in plan.kept if _remove(store.kept.trash(name), remove_tree))
    gone.update(path.name for path in left_over if _remove(path, remove_tree))
    if plan.memos:
        # Last: emptying a table writes much, and by now there is room
        store.cache.memo_clear()
    return gone


def _remove(path: Path, remove_tree: RemoveTree) -> bool:
    if not remove_own(path):
        remove_tree(path)
    return not os.path.lexists(path)


def _entries(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in sorted(os.listdir(directory))]
    except OSError as error:
        raise disk_error("cannot read", directory, error) from error


def sweep(store: "Store") -> list[Path]:
    """See Store.sweep."""
    return [path for path in _left_over(store) if not remove_own(path)]


def df(store: "Store") -> list[Usage]:
    """See Store.df."""
    images = store.images.list()
    cache = store.cache.list()
    plan = _plan(store, True, None, ())
    doomed = set(plan.layers)
    of_images = {diff_id for image in images for diff_id in image.diff_ids}
    layers = [Digest(row[0]) for row in store.index.rows("SELECT diff_id FROM layers")]
    sizes = {diff_id: _layer_size(store, diff_id) for diff_id in layers}
    configs = {image.id: allocated(store.blobs.path(image.id)) for image in images}
    in_images = sum(size for diff_id, size in sizes.items() if diff_id in of_images) + sum(configs.values())
    in_cache = sum(size for diff_id, size in sizes.items() if diff_id not in of_images)
    snapshots = store.snapshots.list()
    trees = {name: store.snapshots.size(name) for name in snapshots}
    dead = [name for name, _ in plan.snapshots]
    # An image without a name frees its layers, unless an image that stays has them too
    freed = sum(sizes[diff_id] for diff_id in doomed & of_images) + sum(configs[image.id] for image, _ in plan.images)
    mounts = store.caches.list()
    in_mounts = sum(store.caches.size(cache.name) for cache in mounts)
    steps = store.kept.steps()
    kept = sum(map(store.kept.size, steps))
    other = allocated(store.place.root) - in_images - in_cache - sum(trees.values()) - in_mounts - kept
    counted = {image.id[7:] for image, _ in plan.images}
    loose = sum(allocated(path) for path, _ in plan.files if path.name not in counted)
    waste = loose + sum(allocated(path) for path in (*plan.contexts, *_left_over(store)))
    return [
        Usage("Images", len(images), sum(bool(image.tags) for image in images), in_images, freed),
        Usage(
            "Build Cache",
            len(cache),
            sum(record.diff_id in of_images for record in cache.values()),
            in_cache,
            sum(sizes[diff_id] for diff_id in doomed - of_images),
        ),
        Usage(
            "Snapshots",
            len(snapshots),
            len(snapshots) - len(dead),
            sum(trees.values()),
            sum(trees[name] for name in dead),
        ),
        Usage("Cache Mounts", len(mounts), 0, in_mounts, in_mounts),
        Usage("Failed Steps", len(steps), sum(map(store.kept.has, steps)), kept, kept),
        Usage("Other", len(_entries(store.place.tmp)) + len(_entries(store.place.contexts)), 0, max(other, 0), waste),
    ]
