"""An opened store."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from pybuild.store import locks
from pybuild.store.absent import Absent
from pybuild.store.accounts import Accounts
from pybuild.store.blobs import Blobs
from pybuild.store.builds import Builds
from pybuild.store.cache import Cache
from pybuild.store.caches import Caches
from pybuild.store.downloads import Downloads
from pybuild.store.errors import DamagedIndexError, StoreError, disk_error
from pybuild.store.images import Images
from pybuild.store.index import Index, damaged_mark
from pybuild.store.indexes import Indexes
from pybuild.store.kept import Kept
from pybuild.store.layers import Layers
from pybuild.store.place import (
    VERSION,
    Place,
    boot_id,
    hold_reserve,
    make_directories,
    making,
    open_place,
    release_reserve,
    sync_file_system,
    write_version,
)
from pybuild.store.pulled import Origins, Pulled
from pybuild.store.snapshots import Snapshots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybuild.store.least import Limits
    from pybuild.store.prune import PruneReport, RemoveTree, Usage


class Store:
    """A store, from `Store.open` to `close` (or `with`). May be used from several threads at once.

    `notices` are sentences the user should see, such as that a damaged index was made again.
    """

    def __init__(self, place: Place, index: Index, boot: str, notices: Sequence[str] = ()) -> None:
        self.place = place
        self.index = index
        self.notices = tuple(notices)
        self._boot = boot
        self.blobs = Blobs(place, index, boot)
        self.layers = Layers(place, index, self.blobs, boot)
        self.indexes = Indexes(index)
        self.absent = Absent(place)
        self.images = Images(index, self.blobs, self.layers, self.indexes, self.absent)
        self.cache = Cache(index)
        self.accounts = Accounts(index)
        self.builds = Builds(place)
        self.pulled = Pulled(self.cache)
        self.origins = Origins(self.cache)
        self.snapshots = Snapshots(place, index, boot)
        self.caches = Caches(place)
        self.kept = Kept(place, boot)
        self.downloads = Downloads(place, self.blobs)

    @classmethod
    def open(cls, root: Path, *, create: bool = True) -> "Store":
        """Open the store below `root`, made when absent and `create`; one with a damaged index is repaired.

        Raises StoreError for a directory that is not safely ours or cannot be written, StoreVersionError, and
        DamagedIndexError when it cannot be repaired now because a build is running.
        """
        place, version = open_place(root, create=create)
        try:
            if version < VERSION:
                _make(place)
            notices = []
            index = Index(place.index)
            try:
                sound = not damaged_mark(place.index).exists() and _is_readable(index, place)
            except StoreError:
                index.close()
                raise
            if not sound:
                index.close()
                notices.append(_repair(place))
        except OSError as error:
            raise disk_error("cannot open the store", root, error) from error
        return cls(place, index, boot_id(), notices)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # The first error is the one to tell
            self.index.close()

    def close(self) -> None:
        """Write down what was only noted, and close the index. No other thread may use the store any more."""
        try:
            self.cache.flush()
        finally:
            self.index.close()

    @contextmanager
    def session(self) -> Iterator[None]:
        """What a running build holds: nothing disappears from the store meanwhile.

        Waits for a prune to end; raises StoreBusyError when that takes too long.
        """
        with locks.shared(self.place.lock):
            yield

    @contextmanager
    def exclusive(self, timeout: float = 0.0) -> Iterator[None]:
        """Hold the store alone; raise StoreBusyError when builds still run after `timeout` seconds."""
        with locks.exclusive(self.place.lock, timeout):
            yield

    def context_memory(self, key: str) -> Path:
        """Return the file for what is remembered of a context, `key` being hex digits."""
        if not key.isalnum():
            raise StoreError(f"invalid key of a context: {key!r}")
        return self.place.contexts / key

    def flush(self) -> None:
        """Write all to the disk, so that it needs no check after a reboot. Slow: for moments when nothing waits."""
        begun = time.time()
        sync_file_system(self.place.root)
        with self.index.writing() as transaction:
            for table in ("blobs", "layers", "snapshots"):
                transaction.execute(
                    f"UPDATE {table} SET durable = 1 WHERE durable = 0 AND boot = ? AND created < ?",
                    (self._boot, begun),
                )

    def sweep(self) -> "list[Path]":
        """Remove what dead processes left in `tmp`, and old beginnings of downloads.

        Returns what only a worker with mapped ids can remove.
        """
        from pybuild.store.prune import sweep

        self.downloads.sweep()
        return sweep(self)

    def prune(
        self,
        *,
        all: bool = False,
        until: float | None = None,
        labels: Sequence[str] = (),
        only_caches: Sequence[str] | None = None,
        types: Iterable[str] = (),
        limits: "Limits | None" = None,
        spared: Iterable[str] = (),
        dry_run: bool = False,
        remove_tree: "RemoveTree | None" = None,
    ) -> "PruneReport":
        """Remove what nothing needs, and tell it: images without a name, cache records without a layer, layers and
        blobs nobody refers to, snapshots of layers that are gone, kept trees of failed steps, beginnings of downloads,
        leftovers of dead processes.

        With `all` the cache goes too. `until` (seconds since the epoch) spares images that came later and cache records
        used later, and takes cache records not used since, `all` or not. `labels` (`key`, `key=value`, either with `!`
        before it) spare other images and the cache. With `only_caches` cache mounts of these ids go, of any when it is
        empty, and nothing else but leftovers; otherwise cache mounts go with `all` or `until`. With `types`, which are
        kinds of `Pruned`, all of these goes that was not used since `until`, named images excepted, and what nothing
        has without it. With `limits` only as much goes as they need, what was used least recently first; images whose
        ids are `spared` stay. `remove_tree` is asked for trees of mapped ids; what it leaves is not in the report.
        Raises StoreBusyError while builds run, unless `dry_run`.
        """
        from pybuild.store.prune import Wanted, prune

        ids = None if only_caches is None else tuple(only_caches)
        wanted = Wanted(all, until, tuple(labels), ids, frozenset(types), limits, frozenset(spared))

        return prune(self, wanted, dry_run=dry_run, remove_tree=remove_tree)

    def df(self) -> "list[Usage]":
        """Return the allocated bytes by kind; together they are what `du` says of the store."""
        from pybuild.store.prune import df

        return df(self)


def _make(place: Place) -> None:
    """Make what a store lacks: all of it, or what an older layout did not have."""
    with making(place):
        if open_place(place.root, create=False)[1] == VERSION:
            return
        make_directories(place)
        index = Index(place.index)
        try:
            index.create()
        except DamagedIndexError:
            # Left by a version file that was removed by hand; the repair comes next
            index.mark_damaged()
        finally:
            index.close()
        hold_reserve(place)
        write_version(place)


def _is_readable(index: Index, place: Place) -> bool:
    try:
        return _is_sound(index)
    except StoreError:
        # Even reading takes a file beside the index: without the reserve a full disk could not be pruned
        if not release_reserve(place):
            raise
        index.close()
        return _is_sound(index)


def _is_sound(index: Index) -> bool:
    if not index.path.exists():
        # Somebody removed it: as good as damaged
        return False
    try:
        index.check()
    except DamagedIndexError:
        return False
    return True


def _repair(place: Place) -> str:
    from pybuild.store.rebuild import rebuild

    with making(place), locks.exclusive(place.lock):
        index = Index(place.index)
        try:
            if not damaged_mark(place.index).exists() and _is_sound(index):
                return "the index of the store was damaged and is repaired"
        finally:
            index.close()
        make_directories(place)
        return rebuild(place)
