"""What prune takes and what it spares; what df adds up."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from pybuild.oci.digest import Digest, chain_id
from pybuild.oci.image import OCI_LAYER_GZIP, Descriptor
from pybuild.oci.reference import parse_reference
from pybuild.store.cache import BLOB, CacheRecord
from pybuild.store.place import allocated, boot_id
from pybuild.store.prune import PruneReport
from pybuild.store.store import Store
from store.conftest import add_layer, config_of
from support.disk import taken

DAY = 86400


def snapshot(store: Store, name: str) -> None:
    staging = store.snapshots.staging()
    (staging / "fs").mkdir()
    (staging / "fs" / "f").write_bytes(b"x" * 10_000)
    assert store.snapshots.publish(staging, name)


def kinds(report: PruneReport) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in report.items:
        found.setdefault(item.kind, set()).add(item.name)
    return found


@pytest.fixture
def layers(store: Store) -> dict[str, Digest]:
    """A store with an image with a name, one without, a cache record, and a layer nobody has."""
    found = {name: add_layer(store, name.encode() * 3000) for name in ("base", "named", "nameless", "cached", "loose")}
    store.images.put(config_of(found["base"], found["named"]), tags=[parse_reference("app")])
    store.images.put(config_of(found["base"], found["nameless"], kind="old"))
    store.cache.put("key", CacheRecord(found["cached"], 5, 1.0, "RUN cached", last_used=time.time() - 10 * DAY))
    store.cache.put("none", CacheRecord(None, 0, 1.0, "WORKDIR /"))
    return found


def kept(store: Store, layers: dict[str, Digest]) -> set[str]:
    return {name for name, diff_id in layers.items() if store.layers.has(diff_id)}


def test_what_nothing_needs_goes(store: Store, layers: dict[str, Digest]) -> None:
    report = store.prune()
    assert kept(store, layers) == {"base", "named", "cached"}
    assert kinds(report)["layer"] == {layers["nameless"], layers["loose"]}
    assert len(kinds(report)["image"]) == 1
    assert "cache" not in kinds(report)
    assert report.reclaimed > 0
    assert all(item.reason for item in report.items)
    assert [record.tags for record in store.images.list()] == [("app:latest",)]
    assert store.prune().items == ()


def test_all_takes_the_cache_too(store: Store, layers: dict[str, Digest]) -> None:
    store.cache.memo_put("kind", "key", b"x")
    store.context_memory("abc").write_text("x")
    report = store.prune(all=True)
    assert kept(store, layers) == {"base", "named"}
    assert kinds(report)["cache"] == {"RUN cached", "WORKDIR /"}
    assert kinds(report)["context"] == {"abc"}
    assert store.cache.memo_get("kind", "key") is None


def test_a_dry_run_tells_the_same_and_does_nothing(store: Store, layers: dict[str, Digest]) -> None:
    snapshot(store, f"m-{layers['nameless'][7:]}")
    before = sorted(str(path) for path in store.place.root.rglob("*") if "index" not in path.name)
    for everything in (False, True):
        told = store.prune(all=everything, dry_run=True)
        assert sorted(str(path) for path in store.place.root.rglob("*") if "index" not in path.name) == before
    # Only told, the config of an image counts as a blob of its own as it does when it is removed
    assert store.prune(all=True).items == told.items


def test_until_spares_what_is_younger_and_takes_cache_that_is_not_used(store: Store, layers: dict[str, Digest]) -> None:
    store.prune(until=time.time() - 30 * DAY)
    assert kept(store, layers) == {"base", "named", "nameless", "cached"}
    report = store.prune(until=time.time() - 5 * DAY)
    assert kinds(report)["cache"] == {"RUN cached"}
    assert kept(store, layers) == {"base", "named", "nameless"}
    store.prune(until=time.time() + 1)
    assert kept(store, layers) == {"base", "named"}


@pytest.mark.parametrize(
    ("labels", "goes"),
    [
        (["kind"], True),
        (["kind=old"], True),
        (["kind=new"], False),
        (["!kind"], False),
        (["!kind=new"], True),
        (["x"], False),
    ],
)
def test_labels_choose_images_and_spare_the_cache(
    store: Store, layers: dict[str, Digest], labels: list[str], goes: bool
) -> None:
    store.prune(all=True, labels=labels)
    assert kept(store, layers) == {"base", "named", "cached"} | (set() if goes else {"nameless"})


def test_records_of_lost_layers_go(store: Store, layers: dict[str, Digest]) -> None:
    store.layers.delete(layers["cached"])
    report = store.prune()
    assert kinds(report)["cache"] == {"RUN cached"}
    assert store.cache.get("key") is None
    assert store.cache.get("none") is not None


def test_compressed_forms_live_with_their_layer(store: Store, layers: dict[str, Digest]) -> None:
    forms = {name: store.blobs.put(f"gzip of {name}".encode()) for name in ("base", "loose")}
    for name, digest in forms.items():
        store.layers.add_form(layers[name], Descriptor(OCI_LAYER_GZIP, digest, 1))
    stray = store.blobs.put(b"stray")
    report = store.prune()
    assert store.blobs.has(forms["base"])
    assert not store.blobs.has(forms["loose"])
    assert not store.blobs.has(stray)
    assert stray in kinds(report)["blob"]


def test_configs_of_kept_images_stay(store: Store, layers: dict[str, Digest]) -> None:
    store.prune(all=True)
    [record] = store.images.list()
    assert store.blobs.has(record.id)
    assert {path.name for path in store.place.blobs.iterdir()} == {
        digest[7:] for digest in (record.id, layers["base"], layers["named"])
    }


def test_snapshots_go_with_their_layers(store: Store, layers: dict[str, Digest]) -> None:
    chain = chain_id([layers["base"], layers["named"]])
    assert chain is not None
    alive = [f"m-{layers['base'][7:]}", f"s-{layers['cached'][7:]}", f"m-{chain[7:]}"]
    dead = [f"m-{layers['nameless'][7:]}", "m-" + "0" * 64]
    for name in (*alive, *dead):
        snapshot(store, name)
    report = store.prune()
    assert store.snapshots.list() == sorted(alive)
    assert kinds(report)["snapshot"] == set(dead)
    assert sum(item.size for item in report.items if item.kind == "snapshot") >= 2 * 10_000
    assert os.listdir(store.place.tmp) == []


def test_trees_of_mapped_ids_are_left_to_the_caller(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pybuild.store import prune as room

    snapshot(store, "m-1")
    snapshot(store, "m-2")
    monkeypatch.setattr(room, "remove_own", lambda path: False)
    asked: list[Path] = []
    report = store.prune(remove_tree=asked.append)
    assert len(asked) == 2
    assert all((path / "fs").is_dir() and path.parent == store.place.tmp for path in asked)
    # What is still there is not told as removed
    assert "snapshot" not in kinds(report)
    monkeypatch.undo()
    report = store.prune(remove_tree=asked.append)
    assert report.items == ()
    assert len(os.listdir(store.place.tmp)) == 2, "this process is alive, so they are not left over yet"


def left_by(pid: int, started: int, namespace: int, boot: str) -> str:
    return f"{pid}-{started}-{namespace}-{boot}.0"


def test_leftovers_of_dead_processes_are_swept(store: Store) -> None:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    boot = boot_id()[:8]
    process = subprocess.Popen(["sleep", "60"])
    try:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        alive = [left_by(process.pid, started, namespace, boot), left_by(process.pid, started, namespace + 1, boot)]
        dead = [
            left_by(process.pid, started - 1, namespace, boot),
            left_by(process.pid, started, namespace, "00000000"),
            left_by(2**22 + 1, 1, namespace, boot),
        ]
        for number, name in enumerate((*alive, *dead)):
            (store.place.tmp / name).mkdir()
            (store.place.tmp / name / "f").write_text(str(number))
        (store.place.tmp / "strange").touch()
        with store.blobs.create() as blob:
            blob.write(b"x")
            assert store.sweep() == []
            assert set(alive) | {"strange"} < set(os.listdir(store.place.tmp))
            assert len(os.listdir(store.place.tmp)) == 4
    finally:
        process.kill()
        process.wait()
    os.utime(store.place.tmp / "strange", (0, 0))
    os.utime(store.place.tmp / alive[1], (0, 0))
    report = store.prune()
    assert kinds(report)["temporary"] == {*alive, "strange"}
    assert os.listdir(store.place.tmp) == []


def test_deep_trees_and_links_are_removed_without_leaving(store: Store, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "f").write_text("alive")
    trash = store.place.tmp / left_by(2**22 + 1, 1, os.stat("/proc/self/ns/pid").st_ino, boot_id()[:8])
    trash.mkdir()
    (trash / "link").symlink_to(canary)
    (trash / "file").symlink_to(canary / "f")
    assert store.sweep() == []
    assert not trash.exists()
    assert (canary / "f").read_text() == "alive"


def test_df_adds_up_to_what_is_on_the_disk(store: Store, layers: dict[str, Digest]) -> None:
    store.layers.add_form(layers["base"], Descriptor(OCI_LAYER_GZIP, store.blobs.put(b"gzip" * 5000), 20_000))
    snapshot(store, f"m-{layers['base'][7:]}")
    snapshot(store, "m-dead")
    store.blobs.put(b"stray" * 3000)
    store.context_memory("abc").write_bytes(b"x" * 5000)
    (store.place.root / "logs" / "log").write_bytes(b"x" * 9000)
    rows = {row.type: row for row in store.df()}
    told = subprocess.run(
        ["du", "-s", "-B1", "--exclude=index.sqlite-*", str(store.place.root)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sum(row.size for row in rows.values()) == int(told.stdout.split()[0])
    assert (rows["Images"].total, rows["Images"].active) == (2, 1)
    assert (rows["Build Cache"].total, rows["Snapshots"].total, rows["Snapshots"].active) == (2, 2, 1)
    assert all(0 <= row.reclaimable <= row.size for row in rows.values())
    before = allocated(store.place.root) - sum(allocated(path) for path in store.place.root.glob("index*"))
    report = store.prune(all=True)
    after = allocated(store.place.root) - sum(allocated(path) for path in store.place.root.glob("index*"))
    assert report.reclaimed == sum(row.reclaimable for row in rows.values())
    assert before - after == report.reclaimed
    assert store.prune(all=True).items == ()


def test_an_empty_store_adds_up_too(store: Store) -> None:
    rows = store.df()
    assert sum(row.size for row in rows) == taken(store)
    assert sum(row.reclaimable for row in rows) == 0


def test_what_was_fetched_lives_as_long_as_its_record(store: Store) -> None:
    blob = store.blobs.put(b"x" * 50_000)
    store.cache.put("url", CacheRecord(None, 50_000, 1.0, "download of x", {BLOB: blob}, time.time()))
    [row] = [row for row in store.df() if row.type == "Build Cache"]
    assert row.size == row.reclaimable == allocated(store.blobs.path(blob))
    assert sum(row.size for row in store.df()) == taken(store)
    assert store.prune().items == ()
    assert store.blobs.has(blob)
    report = store.prune(all=True)
    assert report.reclaimed >= 50_000
    assert not store.blobs.has(blob)
