"""Kept trees: they come and go whole, one at a time is used, and there are never too many."""

import os

import msgspec
import pytest

from pybuild.errors import ConflictError, NotFoundError
from pybuild.oci.digest import Digest
from pybuild.store.errors import StoreError
from pybuild.store.kept import KeptStep, is_name
from pybuild.store.place import allocated
from pybuild.store.store import Store
from support.disk import taken

from .conftest import add_layer


def keep(store: Store, *diff_ids: Digest, size: int = 0) -> str:
    staging = store.snapshots.staging()
    (staging / "fs").mkdir()
    (staging / "fs" / "file").write_bytes(b"x" * size)
    return store.kept.keep(staging, KeptStep([*diff_ids], "single", "default", b"world\xff"))


def age(store: Store, name: str, **fields: object) -> None:
    """Change what is written down of a kept tree."""
    path = store.place.kept / name / "step.json"
    step = msgspec.json.decode(path.read_bytes(), type=KeptStep)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(step, **fields)))


def test_what_is_kept_can_be_used(store: Store) -> None:
    name = keep(store, size=7)
    assert is_name(name)
    with store.kept.using(name) as (directory, step):
        assert (directory / "fs" / "file").read_bytes() == b"x" * 7
        assert (step.mode, step.network, step.world) == ("single", "default", b"world\xff")
        assert step.created > 0
    assert list(store.place.tmp.iterdir()) == []


def test_one_at_a_time_uses_it(store: Store) -> None:
    name = keep(store)
    with store.kept.using(name):
        with pytest.raises(ConflictError), store.kept.using(name):
            pass
        assert store.kept.make_room(most=0) == []
    with store.kept.using(name):
        pass


@pytest.mark.parametrize("name", ["failed-00000000", "../tmp", "failed-x", ""])
def test_what_is_not_there(store: Store, name: str) -> None:
    assert not store.kept.has(name)
    with pytest.raises(NotFoundError), store.kept.using(name):
        pass


def test_the_oldest_make_room(store: Store) -> None:
    names = [keep(store) for _ in range(4)]
    for number, name in enumerate(names):
        age(store, name, created=1000.0 + number)
    moved = store.kept.make_room(most=2)
    assert len(moved) == 2
    assert all(path.parent == store.place.tmp for path in moved)
    assert [store.kept.has(name) for name in names] == [False, False, True, True]
    assert set(store.kept.steps()) == set(names[2:])


def test_the_largest_sum_is_bounded(store: Store) -> None:
    old, new = keep(store, size=100_000), keep(store, size=100_000)
    age(store, old, created=1000.0)
    store.kept.make_room(size=250_000)
    assert store.kept.has(old)
    store.kept.make_room(size=150_000)
    assert not store.kept.has(old)
    assert store.kept.has(new)
    store.kept.make_room(size=50_000)
    assert not store.kept.has(new)


def test_after_a_reboot_it_counts_as_gone(store: Store) -> None:
    name = keep(store)
    age(store, name, boot="another")
    assert not store.kept.has(name)
    assert [item.kind for item in store.prune(labels=["a"]).items] == ["kept"]


def test_one_that_cannot_be_read_goes(store: Store) -> None:
    name = keep(store)
    (store.place.kept / name / "step.json").write_text("{}")
    assert not store.kept.has(name)
    store.prune()
    assert not (store.place.kept / name).exists()


def test_prune_takes_it_and_its_layers_stay_while_it_does(store: Store) -> None:
    layer = add_layer(store, b"below")
    name = keep(store, layer, size=50_000)
    items = store.prune(all=True, until=1000.0).items
    assert items == ()
    assert store.layers.has(layer)
    [row] = [row for row in store.df() if row.type == "Failed Steps"]
    assert (row.total, row.active) == (1, 1)
    assert row.size == row.reclaimable == allocated(store.place.kept / name) >= 50_000
    assert sum(row.size for row in store.df()) == taken(store)
    report = store.prune(dry_run=True)
    assert {item.kind for item in report.items} >= {"kept"}
    assert store.kept.has(name)
    assert {item.kind for item in store.prune().items} == {"kept"} | {item.kind for item in report.items} - {"kept"}
    assert not store.kept.has(name)
    assert os.listdir(store.place.kept) == []


def test_what_cannot_be_kept_is_told(store: Store) -> None:
    staging = store.snapshots.staging()
    with pytest.raises(StoreError, match="cannot keep"):
        store.kept.keep(staging / "absent", KeptStep([], "single", "default", b""))
    assert store.kept.steps() == {}
