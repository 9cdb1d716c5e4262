"""Blobs: there wholly or not at all, and right."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybuild.oci.digest import Digest, InvalidDigestError, digest_of
from pybuild.store.errors import MissingContentError, StoreError, WrongContentError
from pybuild.store.store import Store
from store.conftest import after_reboot

CLI = Path(__file__).parents[2] / "cli"


def read(store: Store, digest: Digest) -> bytes:
    with os.fdopen(store.blobs.open(digest), "rb") as file:
        return file.read()


def test_what_is_put_can_be_opened(store: Store) -> None:
    digest = store.blobs.put(b"content")
    assert read(store, digest) == b"content"
    assert store.blobs.size(digest) == 7
    assert store.blobs.has(digest)
    assert store.blobs.read(digest, 10) == b"content"
    with pytest.raises(StoreError, match="over 3 bytes"):
        store.blobs.read(digest, 3)


def test_putting_twice_is_harmless(store: Store) -> None:
    assert store.blobs.put(b"x") == store.blobs.put(b"x")
    assert len(os.listdir(store.place.blobs)) == 1
    assert os.listdir(store.place.tmp) == []


def test_what_is_not_there_is_missing(store: Store) -> None:
    absent = digest_of(b"absent")
    assert not store.blobs.has(absent)
    for ask in (store.blobs.open, store.blobs.size):
        with pytest.raises(MissingContentError):
            ask(absent)
    store.blobs.delete(absent)


def test_a_digest_never_leads_out_of_the_store(store: Store) -> None:
    for text in ("sha256:../../x", "x", "", "sha256:" + "../" * 22):
        with pytest.raises(InvalidDigestError):
            store.blobs.path(Digest(text))


def test_nothing_is_visible_before_the_commit(store: Store) -> None:
    with store.blobs.create() as blob:
        blob.write(b"half")
        assert os.listdir(store.place.blobs) == []
        blob.write(b" and half")
        blob.commit(digest_of(b"half and half"), 13)
        blob.abort()
    assert read(store, digest_of(b"half and half")) == b"half and half"


def test_what_is_given_up_leaves_nothing(store: Store) -> None:
    blob = store.blobs.create()

    def fail() -> None:
        with blob:
            blob.write(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    blob.abort()
    with pytest.raises(StoreError):
        blob.fd  # noqa: B018
    assert os.listdir(store.place.tmp) == os.listdir(store.place.blobs) == []


def test_a_wrong_size_is_refused(store: Store) -> None:
    with store.blobs.create() as blob:
        blob.write(b"four")
        with pytest.raises(WrongContentError):
            blob.commit(digest_of(b"four"), 5)
    assert os.listdir(store.place.tmp) == os.listdir(store.place.blobs) == []


@pytest.mark.parametrize("damage", [b"", b"shor", b"changed"])
def test_a_damaged_blob_is_found_after_a_reboot(root: Path, damage: bytes) -> None:
    with Store.open(root) as store:
        digest = store.blobs.put(b"content")
        good = store.blobs.put(b"other")
        path = store.blobs.path(digest)
    path.write_bytes(damage)
    after_reboot(root)
    with Store.open(root) as store:
        assert not store.blobs.has(digest)
        assert not path.exists()
        assert read(store, good) == b"other"
        assert store.index.row("SELECT durable FROM blobs WHERE digest = ?", (good,)) == (1,)
        store.blobs.put(b"content")
        assert read(store, digest) == b"content"


def test_a_wrong_size_is_found_at_once(store: Store) -> None:
    digest = store.blobs.put(b"content")
    store.blobs.path(digest).write_bytes(b"longer content")
    assert not store.blobs.has(digest)


def test_a_boot_that_is_not_told_is_never_trusted(root: Path) -> None:
    with Store.open(root) as store:
        store._boot = store.blobs._boot = ""
        digest = store.blobs.put(b"content")
        store.blobs.path(digest).write_bytes(b"CONTENT")
        assert not store.blobs.has(digest)


def test_flushed_blobs_need_no_check(root: Path) -> None:
    with Store.open(root) as store:
        digest = store.blobs.put(b"content")
        store.flush()
        store.blobs.path(digest).write_bytes(b"CONTENT")
    after_reboot(root)
    with Store.open(root) as store:
        # Trusted, as it was on the disk: that it is not hashed is what is shown here
        assert store.blobs.has(digest)


def test_a_blob_whose_writer_died_before_it_could_tell_is_checked(store: Store) -> None:
    for content, name in ((b"right", digest_of(b"right")), (b"wrong", digest_of(b"something else"))):
        store.blobs.path(name).write_bytes(content)
    assert store.blobs.has(digest_of(b"right"))
    assert store.blobs.size(digest_of(b"right")) == 5
    assert not store.blobs.has(digest_of(b"something else"))


def test_a_link_among_the_blobs_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    store.blobs.path(digest_of(b"secret")).symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError):
        store.blobs.open(digest_of(b"secret"))


def test_threads_share_a_store(store: Store) -> None:
    def work(number: int) -> Digest:
        digest = store.blobs.put(b"%d" % (number % 10))
        assert read(store, digest) == b"%d" % (number % 10)
        return digest

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(200)))) == 10
    assert os.listdir(store.place.tmp) == []


_MANY = """
import os, sys
from pathlib import Path
from pybuild.oci.digest import digest_of
from pybuild.store.store import Store
with Store.open(Path(sys.argv[1])) as store, store.session():
    for number in range(60):
        data = b"%d" % number * 1000
        assert store.blobs.put(data) == digest_of(data)
        with os.fdopen(store.blobs.open(digest_of(data)), "rb") as file:
            assert file.read() == data
        store.cache.memo_put("kind", str(number), data)
print("done")
"""


def start(script: str, root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, str(root)],
        env={**os.environ, "PYTHONPATH": str(CLI), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_make_and_share_a_store(root: Path) -> None:
    started = [start(_MANY, root) for _ in range(5)]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert out == "done\n", err
    with Store.open(root) as store:
        assert len(os.listdir(store.place.blobs)) == 60
        assert os.listdir(store.place.tmp) == []
        assert store.index.row("SELECT count(*) FROM blobs") == (60,)


_ENDLESS = """
import sys
from pathlib import Path
from pybuild.store.store import Store
store = Store.open(Path(sys.argv[1]))
print("started", flush=True)
number = 0
while True:
    with store.blobs.create() as blob:
        blob.write(b"x" * 100_000)
    print(store.blobs.put(b"%d " % number * 10_000), flush=True)
    number += 1
"""


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03, 0.07])
def test_a_killed_writer_loses_nothing_it_had_committed(root: Path, pause: float) -> None:
    import time

    process = start(_ENDLESS, root)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    told = [line for line in out.splitlines() if len(line) == 71]
    with Store.open(root) as store:
        for digest in told:
            assert digest_of(read(store, Digest(digest))) == digest
        for name in os.listdir(store.place.blobs):
            assert store.blobs.has(Digest(f"sha256:{name}"))
        assert store.sweep() == []
        assert os.listdir(store.place.tmp) == []
