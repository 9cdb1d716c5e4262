"""A store kept within a limit: what goes, in which order, and what stays."""

import os
import time
from pathlib import Path

import pytest

from pybuild.errors import ConflictError
from pybuild.oci.digest import Digest
from pybuild.oci.reference import parse_reference
from pybuild.store.cache import CacheRecord
from pybuild.store.errors import StoreBusyError
from pybuild.store.least import Limits, excess
from pybuild.store.place import allocated
from pybuild.store.store import Store
from store.conftest import add_layer, config_of

BIG = 200_000
HOUR = 3600


def cached(store: Store, name: str, hours: int) -> Digest:
    """Add a layer with a cache record and a snapshot, all of which were used some hours ago."""
    diff_id = add_layer(store, name.encode() * (BIG // len(name)))
    used = time.time() - hours * HOUR
    store.cache.put(name, CacheRecord(diff_id, BIG, used, f"RUN {name}", last_used=used))
    snapshot(store, f"m-{diff_id[7:]}", hours)
    return diff_id


def snapshot(store: Store, name: str, hours: int) -> None:
    staging = store.snapshots.staging()
    (staging / "fs").mkdir()
    (staging / "fs" / "f").write_bytes(b"x" * BIG)
    assert store.snapshots.publish(staging, name)
    os.utime(store.snapshots.path(name).parent, (time.time() - hours * HOUR,) * 2)


def cache_mount(store: Store, hours: int) -> None:
    def fill(path: Path) -> None:
        path.mkdir()
        (path / "f").write_bytes(b"x" * BIG)

    name = "m-" + "0" * 64
    with store.caches.use(name, "shared", id="go", target="/go", make=fill, discard=print, wait=print):
        pass
    info = store.place.caches / f"{name}.0" / "info.json"
    os.utime(info, (time.time() - hours * HOUR,) * 2)


def taken(store: Store) -> int:
    return allocated(store.place.root)


def records(store: Store) -> set[str]:
    return set(store.cache.list())


@pytest.fixture
def ages(store: Store) -> dict[str, Digest]:
    found = {name: cached(store, name, hours) for name, hours in (("old", 9), ("middle", 5), ("new", 1))}
    named = add_layer(store, b"n" * BIG)
    store.images.put(config_of(named), tags=[parse_reference("app")])
    snapshot(store, f"m-{named[7:]}", 20)
    cache_mount(store, 7)
    return {**found, "named": named}


def test_what_was_used_least_recently_goes_until_it_fits(store: Store, ages: dict[str, Digest]) -> None:
    # The snapshot of the named image, and layer and snapshot of the oldest record
    limit = Limits(max_size=taken(store) - 3 * BIG + 20_000)
    told = store.prune(limits=limit, dry_run=True)
    assert records(store) == {"old", "middle", "new"}
    report = store.prune(limits=limit)
    assert report.items == told.items
    assert records(store) == {"middle", "new"}
    assert not store.layers.has(ages["old"])
    assert store.layers.has(ages["named"])
    assert {item.kind for item in report.items} >= {"cache", "layer", "snapshot"}
    assert all(item.reason and (item.last_used or item.kind == "layer") for item in report.items)
    assert [cache.id for cache in store.caches.list()] == ["go"]
    assert excess(store, limit) == 0
    assert taken(store) <= limit.max_size
    assert store.prune(limits=limit).items == ()


def test_cache_mounts_take_their_turn(store: Store, ages: dict[str, Digest]) -> None:
    store.prune(limits=Limits(max_size=taken(store) - 4 * BIG + 20_000))
    assert store.caches.list() == []
    assert records(store) == {"middle", "new"}


def test_named_images_stay_whatever_the_limit(store: Store, ages: dict[str, Digest]) -> None:
    store.images.put(config_of(ages["new"]))
    spared = store.images.put(config_of(ages["middle"], kind="just built"))
    store.prune(limits=Limits(max_size=1), spared=[spared])
    assert records(store) == set()
    assert store.layers.has(ages["named"])
    assert store.layers.has(ages["middle"])
    assert not store.layers.has(ages["new"])
    assert {record.id for record in store.images.list() if not record.tags} == {spared}


def test_a_shared_layer_goes_with_its_last_user(store: Store, ages: dict[str, Digest]) -> None:
    store.cache.put("again", CacheRecord(ages["old"], BIG, 1.0, "RUN again"))
    store.prune(limits=Limits(max_size=taken(store) - 4 * BIG + 20_000))
    assert store.layers.has(ages["old"])
    assert not store.layers.has(ages["middle"])
    assert records(store) == {"new", "again"}


def test_waste_goes_first(store: Store, ages: dict[str, Digest]) -> None:
    loose = add_layer(store, b"l" * BIG)
    store.prune(limits=Limits(max_size=taken(store) - BIG // 2))
    assert not store.layers.has(loose)
    assert records(store) == {"old", "middle", "new"}


def test_free_space_of_the_disk_is_a_limit_too(store: Store, ages: dict[str, Digest]) -> None:
    state = os.statvfs(store.place.root)
    free = state.f_bavail * state.f_frsize
    assert excess(store, Limits(min_free=free // 2)) == 0
    assert 0 < excess(store, Limits(min_free=free + (1 << 30))) < 2 << 30
    store.prune(limits=Limits(min_free=free * 2))
    assert records(store) == set()


def test_uses_are_noted_exactly_when_asked(store: Store, ages: dict[str, Digest]) -> None:
    store.cache.put("newest", CacheRecord(None, 0, 1.0))
    store.cache.note_every_use()
    store.cache.get("new")
    store.cache.flush()
    assert next(iter(store.cache.list())) == "new"


def test_nothing_goes_under_a_running_build(root: Path, store: Store, ages: dict[str, Digest]) -> None:
    with Store.open(root) as other, other.session():
        with pytest.raises((StoreBusyError, ConflictError)):
            store.prune(limits=Limits(max_size=1))
    assert records(store) == {"old", "middle", "new"}


def test_types_choose_what_goes(store: Store, ages: dict[str, Digest]) -> None:
    report = store.prune(types={"snapshot"}, until=time.time() - 6 * HOUR)
    assert {item.kind for item in report.items} == {"snapshot"}
    assert len(store.snapshots.list()) == 2
    store.prune(types={"cache"}, until=time.time() - 3 * HOUR)
    assert records(store) == {"new"}
    assert [store.layers.has(ages[name]) for name in ("old", "middle", "new", "named")] == [False, False, True, True]
    assert store.caches.list()
    store.prune(types={"cache mount"})
    assert not store.caches.list()
