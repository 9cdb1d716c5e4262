"""Layers: tables, sizes, compressed forms."""

from pathlib import Path

import pytest

from pybuild.oci.digest import digest_of
from pybuild.oci.image import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from pybuild.store import layers as layers_room
from pybuild.store.errors import MissingContentError
from pybuild.store.store import Store
from pybuild.tree.entry import DIR, Entry
from store.conftest import add_layer, after_reboot


def test_a_table_is_kept(root: Path) -> None:
    toc = [Entry(path=b"d", type=DIR, mode=0o755), Entry(path=b"d/\xff", type="f", xattrs={b"user.a": b"\0"})]
    with Store.open(root) as store:
        diff_id = store.blobs.put(b"tar")
        assert not store.layers.has(diff_id)
        store.layers.record(diff_id, 3, toc)
        store.layers.record(diff_id, 3, toc)
        assert store.layers.toc(diff_id) is store.layers.toc(diff_id)
    with Store.open(root) as store:
        assert store.layers.has(diff_id)
        assert store.layers.toc(diff_id) == toc
        assert store.layers.size(diff_id) == 3


def test_an_unknown_layer_is_missing(store: Store) -> None:
    absent = digest_of(b"absent")
    assert not store.layers.has(absent)
    for ask in (store.layers.toc, store.layers.size):
        with pytest.raises(MissingContentError):
            ask(absent)
    assert store.layers.forms(absent) == []
    store.layers.delete(absent)


def test_a_layer_without_its_tar_or_table_is_absent(root: Path) -> None:
    with Store.open(root) as store:
        one, two, three = (add_layer(store, content) for content in (b"1", b"2", b"3"))
        store.blobs.path(one).unlink()
        (store.place.tocs / two[7:]).unlink()
        (store.place.tocs / three[7:]).write_bytes(b"")
    with Store.open(root) as store:
        assert [store.layers.has(diff_id) for diff_id in (one, two, three)] == [False, False, False]
        with pytest.raises(MissingContentError):
            store.layers.toc(two)


def test_a_table_damaged_by_a_power_cut_is_found(root: Path) -> None:
    with Store.open(root) as store:
        damaged, good = add_layer(store, b"one"), add_layer(store, b"two")
        path = store.place.tocs / damaged[7:]
        path.write_bytes(bytes(len(path.read_bytes())))
    after_reboot(root)
    with Store.open(root) as store:
        assert not store.layers.has(damaged)
        assert store.layers.has(good)
        assert store.index.row("SELECT durable FROM layers WHERE diff_id = ?", (good,)) == (1,)
        with pytest.raises(MissingContentError):
            store.layers.toc(damaged)
        add_layer(store, b"one")
        assert store.layers.has(damaged)


def test_forms_are_told_while_their_blobs_are_there(store: Store) -> None:
    diff_id = add_layer(store, b"tar")
    gzip, zstd = store.blobs.put(b"gzip"), store.blobs.put(b"zstd")
    store.layers.add_form(diff_id, Descriptor(OCI_LAYER_GZIP, gzip, 4))
    store.layers.add_form(diff_id, Descriptor(OCI_LAYER_ZSTD, zstd, 4))
    assert {form.digest for form in store.layers.forms(diff_id)} == {gzip, zstd}
    store.blobs.delete(gzip)
    assert store.layers.forms(diff_id) == [Descriptor(OCI_LAYER_ZSTD, zstd, 4)]
    store.layers.delete(diff_id)
    assert not store.blobs.has(zstd)
    assert not store.layers.has(diff_id)
    assert not store.blobs.has(diff_id)


def test_few_tables_are_kept_in_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_room, "KEPT_ROWS", 3)
    diff_ids = [add_layer(store, b"%d" % number) for number in range(10)]
    assert len(store.layers._kept) == 3
    assert all(store.layers.toc(diff_id)[0].path == b"f" for diff_id in diff_ids)
    assert store.layers._kept_rows == 3
