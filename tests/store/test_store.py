"""Opening, locking, and what may be wrong with the directory."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pybuild.errors import ConflictError
from pybuild.oci.reference import parse_reference
from pybuild.store import place
from pybuild.store.cache import CacheRecord
from pybuild.store.errors import DamagedIndexError, StoreBusyError, StoreError, StoreVersionError
from pybuild.store.store import Store
from store.conftest import add_layer, config_of


def test_new_directories_are_private(tmp_path: Path) -> None:
    root = tmp_path / "share" / "pybuild" / "store"
    Store.open(root).close()
    for path in (root, root.parent, root.parent.parent, *(root / name for name in place.DIRECTORIES)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert (root / "version").read_text() == "2\n"
    with Store.open(root, create=False) as store:
        assert store.notices == ()


def test_an_absent_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store"):
        Store.open(tmp_path / "absent", create=False)
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError):
            Store.open(root)


def test_a_store_others_can_read_is_closed_to_them(root: Path) -> None:
    Store.open(root).close()
    root.chmod(0o755)
    Store.open(root).close()
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_store_others_can_write_is_refused(root: Path) -> None:
    Store.open(root).close()
    root.chmod(0o777)
    with pytest.raises(StoreError, match="writable for everybody"):
        Store.open(root)


def test_a_store_of_somebody_else_is_refused(root: Path) -> None:
    if os.geteuid() == 0:
        Store.open(root).close()
        os.chown(root, 12345, 12345)
    else:
        root = Path("/")
    with pytest.raises(StoreError, match="belongs to user"):
        Store.open(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_refused(root: Path) -> None:
    Store.open(root).close()
    root.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open(root)
    root.chmod(0o700)


def test_a_newer_layout_is_refused_and_nonsense_told(root: Path) -> None:
    Store.open(root).close()
    (root / "version").write_text("3\n")
    with pytest.raises(StoreVersionError, match="newer"):
        Store.open(root)
    for text in ("", "x", "-1", "1.0"):
        (root / "version").write_text(text)
        with pytest.raises(StoreError, match="not a number"):
            Store.open(root)
    (root / "version").unlink()
    Store.open(root).close()


def test_a_store_half_made_is_completed(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "blobs").mkdir()
    (root / "index.sqlite").touch()
    with Store.open(root) as store:
        store.blobs.put(b"x")


def test_builds_share_and_prune_waits_for_none(store: Store, root: Path) -> None:
    with Store.open(root) as other, store.session(), other.session(), store.session():
        with pytest.raises(StoreBusyError) as caught, other.exclusive():
            pass
        assert isinstance(caught.value, ConflictError)
        with pytest.raises(StoreBusyError):
            other.prune()
        other.prune(dry_run=True)
    with store.exclusive():
        pass


def test_a_build_waits_for_a_prune_but_not_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    ended = threading.Event()

    def prune() -> None:
        with store.exclusive():
            begun.set()
            ended.wait(10)

    begun = threading.Event()
    thread = threading.Thread(target=prune)
    thread.start()
    begun.wait(10)
    from pybuild.store import locks

    with pytest.raises(StoreBusyError, match="pruned"), locks.shared(store.place.lock, timeout=0.1):
        pass
    threading.Timer(0.1, ended.set).start()
    with store.session():
        assert ended.is_set()
    thread.join()


def test_a_dead_process_holds_no_lock(store: Store, root: Path) -> None:
    script = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom pybuild.store.store import Store\n"
        "with Store.open(Path(sys.argv[1])) as store, store.session():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "cli")}
    subprocess.run([sys.executable, "-c", script, str(root)], env=environment, check=False)
    with store.exclusive():
        pass


def test_context_memory_stays_inside(store: Store) -> None:
    assert store.context_memory("ab12") == store.place.contexts / "ab12"
    for key in ("", "../x", "a/b", "."):
        with pytest.raises(StoreError):
            store.context_memory(key)


def damage(root: Path) -> None:
    for name in ("index.sqlite-wal", "index.sqlite-shm"):
        (root / name).unlink(missing_ok=True)
    (root / "index.sqlite").write_bytes(b"this is no database" * 1000)


def test_a_damaged_index_is_made_again(root: Path) -> None:
    with Store.open(root) as store:
        diff_id = add_layer(store, b"layer")
        identity = store.images.put(config_of(diff_id), tags=[parse_reference("app")])
        store.blobs.put(b'{"no": "image"}')
        (store.place.blobs / ("0" * 64)).write_bytes(b"damaged")
    damage(root)
    with Store.open(root) as store:
        [notice] = store.notices
        assert "1 images" in notice
        [record] = store.images.list()
        assert (record.id, record.diff_ids, record.tags, record.size) == (identity, [diff_id], (), 5)
        assert store.layers.has(diff_id)
        assert store.layers.toc(diff_id)[0].path == b"f"
    with Store.open(root) as store:
        assert store.notices == ()
    assert len(list(root.glob("index.damaged-*.sqlite"))) == 1


def test_names_survive_when_only_part_of_the_index_is_damaged(root: Path) -> None:
    with Store.open(root) as store:
        diff_id = add_layer(store, b"layer")
        identity = store.images.put(config_of(diff_id), tags=[parse_reference("app")])
        store.cache.put("key", CacheRecord(diff_id, 5, 1.0))
    connection = sqlite3.connect(root / "index.sqlite")
    connection.execute("DROP TABLE blobs")
    connection.commit()
    connection.close()
    with Store.open(root) as store:
        assert store.notices
        record = store.images.resolve("app")
        assert record is not None
        assert record.id == identity
        assert store.cache.get("key") is not None
        assert store.layers.has(diff_id)


def test_a_lost_index_is_made_again(root: Path) -> None:
    with Store.open(root) as store:
        store.images.put(config_of(add_layer(store, b"layer")))
    for path in root.glob("index.sqlite*"):
        path.unlink()
    with Store.open(root) as store:
        assert len(store.images.list()) == 1


def test_a_damaged_index_is_left_alone_while_a_build_runs(root: Path) -> None:
    with Store.open(root) as store, store.session():
        damage(root)
        with pytest.raises(ConflictError):
            Store.open(root)
    Store.open(root).close()


def test_damage_found_later_is_repaired_the_next_time(root: Path) -> None:
    with Store.open(root) as store:
        add_layer(store, b"layer")
        for number in range(500):
            store.cache.memo_put("kind", str(number), b"x" * 1000)
    with (root / "index.sqlite").open("r+b") as file:
        file.seek(4096 * 12)
        file.write(os.urandom(4096 * 60))
    with pytest.raises(DamagedIndexError) as caught, Store.open(root) as store:
        store.index.rows("SELECT * FROM memo")
    assert caught.value.hint
    with Store.open(root) as store:
        assert store.notices
        store.index.rows("SELECT * FROM memo")


def fill(store: Store) -> None:
    store.cache.memo_put("kind", "key", b"x")
    while True:
        store.blobs.put(os.urandom(20_000))


def fill_file(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        with Store.open(small / "store") as store:
            kept = store.blobs.put(b"kept")
            with pytest.raises(StoreError, match="full") as caught:
                store.blobs.put(os.urandom(4 << 20))
            assert "prune" in caught.value.hint
            assert os.listdir(store.place.tmp) == []
            with pytest.raises(StoreError, match="full"):
                fill(store)
            assert store.blobs.has(kept)
        fill_file(small / "others")
        # What the hint says must be possible now
        with Store.open(small / "store") as store:
            assert store.notices == ()
            assert store.cache.memo_get("kind", "key") == b"x"
            assert kept in {item.name for item in store.prune(all=True).items}
            assert store.cache.memo_get("kind", "key") is None
            assert store.prune(all=True).items == ()
        assert (small / "store" / "reserve").exists()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_read_only_is_told(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting read-only needs root")
    root.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,mode=700", "tmpfs", str(root)], capture_output=True, check=False
    ).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        with pytest.raises(StoreError) as caught:
            Store.open(root)
        assert "PYBUILD_STORE" in caught.value.hint
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_opening_is_quick(root: Path) -> None:
    import time

    Store.open(root).close()
    begun = time.perf_counter()
    for _ in range(20):
        with Store.open(root) as store:
            store.cache.get("key")
    assert (time.perf_counter() - begun) / 20 < 0.02
