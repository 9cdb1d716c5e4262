"""Snapshots appear at once, and are not trusted after a reboot."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybuild.store.errors import StoreError
from pybuild.store.store import Store
from store.conftest import after_reboot


def stage(store: Store, text: str = "x") -> Path:
    staging = store.snapshots.staging()
    (staging / "fs").mkdir()
    (staging / "fs" / "f").write_text(text)
    return staging


def test_a_snapshot_appears_at_once(store: Store) -> None:
    staging = stage(store)
    assert staging.stat().st_mode & 0o777 == 0o700
    assert not store.snapshots.has("m-1")
    assert store.snapshots.publish(staging, "m-1")
    assert store.snapshots.has("m-1")
    assert (store.snapshots.path("m-1") / "f").read_text() == "x"
    assert store.snapshots.list() == ["m-1"]
    assert store.snapshots.size("m-1") >= 4096
    assert os.listdir(store.place.tmp) == []


def test_of_two_the_first_stays(store: Store) -> None:
    first, second = stage(store, "1"), stage(store, "2")
    assert store.snapshots.publish(first, "m-1")
    assert not store.snapshots.publish(second, "m-1")
    assert (store.snapshots.path("m-1") / "f").read_text() == "1"
    assert second.exists()


def test_many_publish_at_once(store: Store) -> None:
    stagings = [stage(store, str(number)) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda staging: store.snapshots.publish(staging, "m-1"), stagings))
    assert won.count(True) == 1
    assert (store.snapshots.path("m-1") / "f").read_text() == str(won.index(True))


def test_an_older_boot_is_not_trusted_unless_flushed(root: Path) -> None:
    with Store.open(root) as store:
        store.snapshots.publish(stage(store), "m-flushed")
        store.flush()
        store.snapshots.publish(stage(store, "old"), "m-1")
    after_reboot(root)
    with Store.open(root) as store:
        assert store.snapshots.has("m-flushed")
        assert not store.snapshots.has("m-1")
        assert store.snapshots.publish(stage(store, "new"), "m-1")
        assert store.snapshots.has("m-1")
        assert (store.snapshots.path("m-1") / "f").read_text() == "new"


def test_what_a_killed_process_left_is_replaced(store: Store) -> None:
    stage(store, "left").rename(store.place.snapshots / "m-1")
    assert not store.snapshots.has("m-1")
    assert store.snapshots.publish(stage(store, "new"), "m-1")
    assert (store.snapshots.path("m-1") / "f").read_text() == "new"


def test_trash_takes_it_away_for_later(store: Store) -> None:
    store.snapshots.publish(stage(store), "m-1")
    trash = store.snapshots.trash("m-1")
    assert trash is not None
    assert (trash / "fs" / "f").exists()
    assert not store.snapshots.has("m-1")
    assert store.snapshots.trash("m-1") is None


def test_names_stay_inside(store: Store) -> None:
    for name in ("", "..", "../x", "a/b", ".x", "a\n", "A" * 200, "-"):
        with pytest.raises(StoreError):
            store.snapshots.path(name)
    with pytest.raises(StoreError, match="no tree"):
        store.snapshots.publish(store.snapshots.staging(), "m-1")


def test_the_empty_directory_is_empty(store: Store) -> None:
    assert os.listdir(store.snapshots.empty()) == os.listdir(store.snapshots.empty()) == []
