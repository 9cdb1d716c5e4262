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
from pybuild.store.indexes import IndexRecord
from pybuild.store.least import Limits, Victim, choose, excess
from pybuild.store.place import allocated, hold_reserve, is_left_over, release_reserve, remove_own
from pybuild.store.sizes import layer_size
from pybuild.tree.notes import LENT

if TYPE_CHECKING:
    from pybuild.store.store import Store

ASKED_FOR = "it was asked for"
NAMELESS = "no name points at it"
OVER_LIMIT = "used least recently, and the store is over its limit"

RemoveTree = Callable[[Path], object]
"""Removes a tree that may belong to mapped ids; may fail silently, what is left is taken the next time."""


class Pruned(msgspec.Struct, frozen=True):
    """A thing that was removed, or would be.

    `kind` is image, index, cache, layer, blob, snapshot, kept, cache mount, context, build, download or temporary.
    `size` are allocated bytes, each byte counted with one thing only. `last_used` in seconds since the epoch, 0 when
    unknown.
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
    indexes: list[tuple[IndexRecord, str]] = msgspec.field(default_factory=list)
    images: list[tuple[ImageRecord, str]] = msgspec.field(default_factory=list)
    cache: list[tuple[str, CacheRecord, str]] = msgspec.field(default_factory=list)
    layers: list[Digest] = msgspec.field(default_factory=list)
    files: list[tuple[Path, str]] = msgspec.field(default_factory=list)
    snapshots: list[tuple[str, str]] = msgspec.field(default_factory=list)
    caches: list[tuple[CacheDirectory, str]] = msgspec.field(default_factory=list)
    contexts: list[Path] = msgspec.field(default_factory=list)
    builds: list[Path] = msgspec.field(default_factory=list)
    kept: list[str] = msgspec.field(default_factory=list)
    downloads: list[Path] = msgspec.field(default_factory=list)
    memos: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """What is to go, see Store.prune."""

    all: bool = False
    until: float | None = None
    labels: tuple[str, ...] = ()
    cache_ids: tuple[str, ...] | None = None
    types: frozenset[str] = frozenset()
    limits: Limits | None = None
    spared: frozenset[str] = frozenset()


def prune(store: "Store", wanted: Wanted, *, dry_run: bool, remove_tree: RemoveTree | None) -> PruneReport:
    """See Store.prune."""
    if dry_run:
        return PruneReport(tuple(_told(store, _planned(store, wanted), _left_over(store))))
    with store.exclusive():
        # What removes things writes first: names go before content
        release_reserve(store.place)
        try:
            store.cache.flush()
            plan = _planned(store, wanted)
            left_over = _left_over(store)
            items = list(_told(store, plan, left_over))
            gone = _carry_out(store, plan, left_over, remove_tree or remove_own)
        finally:
            hold_reserve(store.place)
        trees = ("snapshot", "kept", "cache mount", "temporary")
        return PruneReport(tuple(item for item in items if item.kind not in trees or item.name in gone))


def _planned(store: "Store", wanted: Wanted) -> _Plan:
    if wanted.cache_ids is not None:
        return _Plan(caches=_chosen_caches(store, wanted.cache_ids, wanted.until))
    if wanted.types:
        return _of_types(store, wanted)
    if wanted.limits:
        return _least(store, wanted)
    return _plan(store, wanted.all, wanted.until, wanted.labels)


def _least(store: "Store", wanted: Wanted) -> _Plan:
    """Plan what brings the store within its limits; what nothing has any more goes in any case, but is counted."""
    assert wanted.limits is not None
    missing = excess(store, wanted.limits)
    plan = _chosen(store, [], OVER_LIMIT)
    if missing:
        waste = sum(item.size for item in _told(store, plan, _left_over(store)))
        plan = _chosen(store, choose(store, missing - waste, wanted.spared), OVER_LIMIT)
    return plan


def _chosen(store: "Store", victims: Iterable[Victim], reason: str) -> _Plan:
    """Plan that these go, and what nothing has without them."""
    going: dict[str, set[str]] = {}
    for victim in victims:
        going.setdefault(victim.kind, set()).add(victim.name)
    plan = _Plan(kept=sorted(going.get("kept", ())))
    images, records = store.images.list(), store.cache.list()
    plan.indexes = [(index, reason) for index in store.indexes.list() if index.id in going.get("index", ())]
    gone = {*going.get("image", ()), *_freed(store, plan)}
    plan.images = [(image, reason) for image in images if image.id in gone]
    plan.cache = [(key, record, reason) for key, record in records.items() if key in going.get("cache", ())]
    plan.caches = [(cache, reason) for cache in store.caches.list() if cache.name in going.get("cache mount", ())]
    plan.contexts = [path for path in _entries(store.place.contexts) if path.name in going.get("context", ())]
    plan.downloads = [path for path in store.downloads.paths() if path.name in going.get("download", ())]
    _follow(store, plan)
    named = {name for name, _ in plan.snapshots}
    plan.snapshots += [(name, reason) for name in sorted(going.get("snapshot", set()) - named)]
    return plan


def _of_types(store: "Store", wanted: Wanted) -> _Plan:
    """Plan that all things of some kinds go, those used since `until` excepted."""
    held = {image for index in store.indexes.list() for image in index.images}
    victims = [Victim(index.created, "index", index.id) for index in store.indexes.list() if not index.tags]
    free = [image for image in store.images.list() if not image.tags and image.id not in held]
    victims += [Victim(image.created, "image", image.id) for image in free]
    victims += [Victim(record.last_used, "cache", key) for key, record in store.cache.list().items()]
    victims += [Victim(step.created if step else 0.0, "kept", name) for name, step in store.kept.steps().items()]
    victims += [Victim(cache.last_used, "cache mount", cache.name) for cache in store.caches.list()]
    victims += [Victim(store.snapshots.last_used(name), "snapshot", name) for name in store.snapshots.list()]
    victims += [Victim(path.stat().st_mtime, "context", path.name) for path in _entries(store.place.contexts)]
    victims += [Victim(path.stat().st_mtime, "download", path.name) for path in store.downloads.paths()]
    kinds = wanted.types | ({"index"} if "image" in wanted.types else set())
    chosen = [victim for victim in victims if victim.kind in kinds]
    return _chosen(store, [one for one in chosen if wanted.until is None or one.last_used < wanted.until], ASKED_FOR)


def _plan(store: "Store", all: bool, until: float | None, labels: Sequence[str]) -> _Plan:
    plan = _Plan(memos=all and until is None and not labels)
    images = {image.id: image for image in store.images.list()}
    for index in store.indexes.list():
        of_index = [images[identity] for identity in index.images if identity in images]
        if not index.tags and not [image for image in of_index if not _matches(image, until, labels)]:
            plan.indexes.append((index, NAMELESS))
    going = {index.id for index, _ in plan.indexes}
    held = {image for index in store.indexes.list() if index.id not in going for image in index.images}
    for image in images.values():
        if not image.tags and image.id not in held and _matches(image, until, labels):
            plan.images.append((image, NAMELESS))
    for name, step in store.kept.steps().items():
        if step is None or not store.kept.has(name) or (not labels and (until is None or step.created < until)):
            plan.kept.append(name)
    for key, record in store.cache.list().items():
        reason = _stale(record, all=all and not labels, until=None if labels else until)
        if reason:
            plan.cache.append((key, record, reason))
    if not labels:
        plan.caches = list(_old_caches(store, all, until))
        plan.downloads = [path for path in store.downloads.paths() if until is None or path.stat().st_mtime < until]
    if not labels and (all or until is not None):
        contexts = _entries(store.place.contexts)
        plan.contexts = [path for path in contexts if until is None or path.stat().st_mtime < until]
        plan.builds = [path for path in store.builds.paths() if until is None or path.stat().st_mtime < until]
    _follow(store, plan)
    return plan


def _freed(store: "Store", plan: _Plan) -> set[Digest]:
    """Return the images without a name that no index has any more when those of the plan are gone."""
    going = {index.id for index, _ in plan.indexes}
    held = {image for index in store.indexes.list() if index.id not in going for image in index.images}
    named = {image.id for image in store.images.list() if image.tags}
    return {image for index, _ in plan.indexes for image in index.images} - held - named


def _follow(store: "Store", plan: _Plan) -> None:
    """Add what nothing has any more without the images, records and kept trees of the plan."""
    going_images = {image.id for image, _ in plan.images}
    going_records = {key for key, _, _ in plan.cache}
    recorded = {Digest(row[0]) for row in store.index.rows("SELECT diff_id FROM layers")}
    images = [image for image in store.images.list() if image.id not in going_images]
    needed = {diff_id for image in images for diff_id in image.diff_ids}
    for name, step in store.kept.steps().items():
        if step is not None and name not in plan.kept:
            needed.update(step.diff_ids)
    blobs: set[str] = set()
    for key, record in store.cache.list().items():
        if key in going_records:
            continue
        if record.diff_id is not None and record.diff_id not in recorded:
            plan.cache.append((key, record, "its layer is gone"))
            continue
        if record.diff_id is not None:
            needed.add(record.diff_id)
        if BLOB in record.value:
            blobs.add(str(record.value[BLOB]))
    plan.layers = sorted(recorded - needed)
    live = recorded & needed
    plan.files = list(_unknown_files(store, live, plan.layers, images, blobs))
    plan.snapshots = list(_dead_snapshots(store, live, images))


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


def _stale(record: CacheRecord, *, all: bool, until: float | None) -> str:
    """Return why a cache record should go, "" when it should stay."""
    if until is not None:
        return "not used lately" if record.last_used < until else ""
    return "all of the cache was asked for" if all else ""


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
    for index, reason in plan.indexes:
        yield Pruned("index", index.id, 0, reason, index.created)
    for image, reason in plan.images:
        yield Pruned("image", image.id, 0, reason, image.created)
    for key, record, reason in plan.cache:
        yield Pruned("cache", record.description or key, 0, reason, record.last_used)
    used = {record.diff_id: record.last_used for _, record, _ in reversed(plan.cache)}
    for diff_id in plan.layers:
        size = layer_size(store, diff_id)
        yield Pruned("layer", diff_id, size, "no image or cache record has it", used.get(diff_id, 0.0))
    for path, reason in plan.files:
        yield Pruned("blob", f"sha256:{path.name}", allocated(path), reason)
    for name, reason in plan.snapshots:
        yield Pruned("snapshot", name, store.snapshots.size(name), reason, store.snapshots.last_used(name))
    for cache, reason in plan.caches:
        yield Pruned("cache mount", cache.shown, store.caches.size(cache.name), reason, cache.last_used)
    for name in plan.kept:
        reason = "what a failed step had done, kept for a look into it"
        yield Pruned("kept", name, store.kept.size(name), reason, _kept_since(store, name))
    for path in plan.contexts:
        reason = "its file digests are found again by reading"
        yield Pruned("context", path.name, allocated(path), reason, path.stat().st_mtime)
    for path in plan.builds:
        yield Pruned("build", path.name, allocated(path), "what `pybuild explain` tells of it", path.stat().st_mtime)
    for path in plan.downloads:
        reason = "the beginning of a download that broke off"
        yield Pruned("download", f"sha256:{path.name}", allocated(path), reason, path.stat().st_mtime)
    for path in left_over:
        yield Pruned("temporary", path.name, allocated(path), "left by a process that is gone")


def _kept_since(store: "Store", name: str) -> float:
    step = store.kept.steps().get(name)
    return step.created if step is not None else 0.0


def _carry_out(store: "Store", plan: _Plan, left_over: Iterable[Path], remove_tree: RemoveTree) -> set[str]:
    """Remove what is planned, names before content; return the names of the trees that are really gone."""
    for index, _ in plan.indexes:
        store.indexes.delete(index.id)
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
    for path in (*plan.contexts, *plan.builds, *plan.downloads):
        path.unlink(missing_ok=True)
    wanted = {diff_id for image in store.images.list() for diff_id in image.diff_ids}
    store.absent.delete(one for one in store.absent.list() if one not in wanted or store.layers.has(one))
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
    if plan.cache and not plan.memos:
        store.accounts.tidy()
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
    # What a RUN that was killed had borrowed is given back by a worker
    return [path for path in _left_over(store) if (path / LENT).exists() or not remove_own(path)]


def df(store: "Store") -> list[Usage]:
    """See Store.df."""
    images = store.images.list()
    cache = store.cache.list()
    plan = _plan(store, True, None, ())
    doomed = set(plan.layers)
    of_images = {diff_id for image in images for diff_id in image.diff_ids}
    layers = [Digest(row[0]) for row in store.index.rows("SELECT diff_id FROM layers")]
    sizes = {diff_id: layer_size(store, diff_id) for diff_id in layers}
    configs = {image.id: allocated(store.blobs.path(image.id)) for image in images}
    in_images = sum(size for diff_id, size in sizes.items() if diff_id in of_images) + sum(configs.values())
    # Blobs that are no layers: what was fetched
    found = {str(record.value[BLOB]) for record in cache.values() if BLOB in record.value} - {*layers, *configs}
    fetched = sum(allocated(store.blobs.path(Digest(digest))) for digest in found)
    in_cache = sum(size for diff_id, size in sizes.items() if diff_id not in of_images) + fetched
    snapshots = store.snapshots.list()
    trees = {name: store.snapshots.size(name) for name in snapshots}
    dead = [name for name, _ in plan.snapshots]
    # An image without a name frees its layers, unless an image that stays has them too
    freed = sum(sizes[diff_id] for diff_id in doomed & of_images) + sum(configs[image.id] for image, _ in plan.images)
    held = {image for index in store.indexes.list() if index.tags for image in index.images}
    mounts = store.caches.list()
    in_mounts = sum(store.caches.size(cache.name) for cache in mounts)
    steps = store.kept.steps()
    kept = sum(map(store.kept.size, steps))
    # What is beside the index is there only while somebody, such as this, has it open
    beside = sum(allocated(store.place.root / f"{store.place.index.name}-{kind}") for kind in ("shm", "wal"))
    everything = allocated(store.place.root) - beside
    other = everything - in_images - in_cache - sum(trees.values()) - in_mounts - kept
    counted = {digest[7:] for digest in (*found, *(image.id for image, _ in plan.images))}
    loose = sum(allocated(path) for path, _ in plan.files if path.name not in counted)
    waste = loose + sum(allocated(path) for path in (*plan.contexts, *plan.builds, *plan.downloads, *_left_over(store)))
    return [
        Usage("Images", len(images), sum(bool(image.tags) or image.id in held for image in images), in_images, freed),
        Usage(
            "Build Cache",
            len(cache),
            sum(record.diff_id in of_images for record in cache.values()),
            in_cache,
            sum(sizes[diff_id] for diff_id in doomed - of_images) + fetched,
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
