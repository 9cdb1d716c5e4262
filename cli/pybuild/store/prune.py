"""What the store can do without, and how much of the disk it uses."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pybuild.oci.digest import Digest
from pybuild.store.images import ImageRecord
from pybuild.store.store import Store


@dataclass(frozen=True, slots=True)
class Victim:
    """Something that is or would be removed; `size` in bytes on disk, `last_used` in seconds since the epoch."""

    kind: str
    name: str
    size: int
    reason: str
    last_used: float


@dataclass(frozen=True, slots=True)
class Usage:
    """One kind of content: how many, how many in use, bytes on disk, bytes a full prune would free."""

    type: str
    total: int
    active: int
    size: int
    reclaimable: int


def prune(
    store: Store,
    *,
    all: bool,
    until: float | None,
    labels: Sequence[str],
    dry_run: bool,
    remove_tree: Callable[[Path], None],
) -> list[Victim]:
    """Remove images without a name and what only they needed; with `all` also every cache record and unused layer.

    `until` spares what was used later; `labels` ("k", "k=v", "!k") choose among the images. `remove_tree`
    removes a directory whose files may belong to mapped ids. Raises ConflictError while builds go on.
    """
    with store.exclusive():
        return _prune(store, all=all, until=until, labels=labels, dry_run=dry_run, remove_tree=remove_tree)


def _prune(
    store: Store,
    *,
    all: bool,
    until: float | None,
    labels: Sequence[str],
    dry_run: bool,
    remove_tree: Callable[[Path], None],
) -> list[Victim]:
    victims: list[Victim] = []
    kept_layers: set[str] = set()
    for record in store.images.list():
        spared = bool(record.tags) or (until is not None and record.created > until) or not _chosen(record, labels)
        if spared:
            kept_layers.update(record.config.rootfs.diff_ids)
            continue
        victims.append(Victim("image", record.id, _blob_size(store, record.id), "no name", record.created))
        if not dry_run:
            store.images.delete(record.id)
    victims += _prune_cache(store, kept_layers, all=all, until=until, dry_run=dry_run)
    for diff_id, created in store.index.rows("SELECT diff_id, created FROM layers"):
        digest = Digest(str(diff_id))
        if digest in kept_layers:
            continue
        size = _layer_size(store, digest)
        victims.append(Victim("layer", digest, size, "in no image and no cache record", float(str(created))))
        if not dry_run:
            store.layers.delete(digest)
    victims += _prune_snapshots(store, kept_layers, dry_run=dry_run, remove_tree=remove_tree)
    victims += _sweep(store, dry_run=dry_run, remove_tree=remove_tree)
    return victims


def _prune_cache(store: Store, kept_layers: set[str], *, all: bool, until: float | None, dry_run: bool) -> list[Victim]:
    victims: list[Victim] = []
    for key, diff_id, used, description in store.index.rows("SELECT key, diff_id, used, description FROM cache"):
        last_used = float(str(used))
        lost = diff_id is not None and not store.layers.has(Digest(str(diff_id)))
        if not lost and (not all or (until is not None and last_used > until)):
            if diff_id is not None:
                kept_layers.add(str(diff_id))
            continue
        reason = "its layer is gone" if lost else "asked for with --all"
        victims.append(Victim("cache", str(description) or str(key), 0, reason, last_used))
        if not dry_run:
            store.index.run(("DELETE FROM cache WHERE key = ?", (key,)))
    return victims


def _prune_snapshots(
    store: Store, kept_layers: set[str], *, dry_run: bool, remove_tree: Callable[[Path], None]
) -> list[Victim]:
    victims: list[Victim] = []
    kept = {layer.removeprefix("sha256:") for layer in kept_layers}
    for name in store.snapshots.names():
        if name.partition("-")[2] in kept:
            continue
        path = store.root / "snapshots" / name
        victims.append(Victim("snapshot", name, tree_size([path]), "its layer is not needed", path.stat().st_mtime))
        if not dry_run:
            remains = store.snapshots.trash(name)
            if remains is not None:
                remove_tree(remains)
    return victims


def _sweep(store: Store, *, dry_run: bool, remove_tree: Callable[[Path], None]) -> list[Victim]:
    victims: list[Victim] = []
    for path in store.abandoned():
        victims.append(
            Victim("temporary", path.name, tree_size([path]), "left behind by a process that is gone", _mtime(path))
        )
        if not dry_run:
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
    return victims


def df(store: Store) -> list[Usage]:
    """Return what uses the disk, in bytes as the file system counts them (allocated blocks)."""
    images = store.images.list()
    named = [record for record in images if record.tags]
    used = {diff_id for record in images for diff_id in record.config.rootfs.diff_ids}
    layers = [Digest(str(row[0])) for row in store.index.rows("SELECT diff_id FROM layers")]
    sizes = {layer: _layer_size(store, layer) for layer in layers}
    configs = sum(_blob_size(store, record.id) for record in images)
    in_named = {diff_id for record in named for diff_id in record.config.rootfs.diff_ids}
    image_layers = sum(size for layer, size in sizes.items() if layer in used)
    free = sum(size for layer, size in sizes.items() if layer in used and layer not in in_named)
    cache_only = sum(size for layer, size in sizes.items() if layer not in used)
    cached = store.index.rows("SELECT COUNT(*) FROM cache")[0][0]
    snapshots = store.snapshots.names()
    kept = {layer.removeprefix("sha256:") for layer in layers}
    active = [name for name in snapshots if name.partition("-")[2] in kept]
    trees = {name: tree_size([store.root / "snapshots" / name]) for name in snapshots}
    rest = [
        *((store.root / name) for name in ("contexts", "tmp", "logs")),
        *store.root.glob("index.sqlite*"),
    ]
    return [
        Usage("Images", len(images), len(named), configs + image_layers, free),
        Usage("Build cache", int(str(cached)), 0, cache_only, cache_only),
        Usage("Snapshots", len(snapshots), len(active), sum(trees.values()), sum(trees.values())),
        Usage("Other", 0, 0, tree_size(rest), tree_size([store.root / "tmp"])),
    ]


def tree_size(paths: Iterable[Path]) -> int:
    """Return the bytes allocated to everything at and below `paths`; a file of several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = list(paths)
    while pending:
        path = pending.pop()
        try:
            state = path.lstat()
        except OSError:
            continue
        if (state.st_dev, state.st_ino) not in seen:
            seen.add((state.st_dev, state.st_ino))
            total += state.st_blocks * 512
        if path.is_dir() and not path.is_symlink():
            try:
                pending += [path / name for name in os.listdir(path)]
            except OSError:
                # A directory of a mapped id that is closed to us
                continue
    return total


def _chosen(record: ImageRecord, labels: Sequence[str]) -> bool:
    own = record.config.config.Labels or {}
    for label in labels:
        negated = label.startswith("!")
        key, equals, value = label.lstrip("!").partition("=")
        if (key in own and (not equals or own[key] == value)) == negated:
            return False
    return True


def _blob_size(store: Store, digest: Digest) -> int:
    return tree_size([store.blobs.path(digest)])


def _layer_size(store: Store, diff_id: Digest) -> int:
    forms = [form.digest for form in store.layers.forms(diff_id)]
    toc = store.root / "tocs" / diff_id.removeprefix("sha256:")
    return tree_size([store.blobs.path(digest) for digest in (diff_id, *forms)] + [toc])


def _mtime(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()
