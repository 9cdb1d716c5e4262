"""What a command has fetched of a blob is gone on with by the next one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybuild.store.downloads import KEPT_SECONDS, LEAST, Download
from pybuild.store.errors import WrongContentError
from pybuild.store.least import Limits
from pybuild.store.store import Store

from .conftest import name_of

DATA = os.urandom(LEAST * 3)
HALF = LEAST * 2
NAME = name_of(DATA)


def begun(store: Store) -> Download:
    """Return what is begun once a command has fetched half of it."""
    with store.downloads.open(NAME, len(DATA)) as first:
        assert first.begun == 0
        first.write(DATA[:HALF])
    return store.downloads.open(NAME, len(DATA))


def test_the_next_goes_on(store: Store) -> None:
    with begun(store) as again:
        assert again.begun == HALF
        assert b"".join(again.blocks()) == DATA[:HALF]
        again.write(DATA[HALF:])
        again.commit(NAME, len(DATA))
    assert store.blobs.read(NAME, len(DATA)) == DATA
    assert not store.downloads.paths()
    with store.downloads.open(NAME, len(DATA)) as anew:
        assert anew.begun == 0


def test_what_is_wrong_or_hardly_begun_is_not_kept(store: Store) -> None:
    with begun(store) as again:
        with pytest.raises(WrongContentError):
            again.commit(NAME, len(DATA))
        again.drop()
    with store.downloads.open(NAME, len(DATA)) as little:
        little.write(b"x" * (LEAST - 1))
    assert not store.downloads.paths()
    with store.downloads.open(NAME, len(DATA)) as much:
        much.write(DATA)
    with store.downloads.open(NAME, len(DATA) - 1) as smaller:
        assert smaller.begun == 0
        assert [*smaller.blocks()] == []


def test_two_at_once_do_not_meet(store: Store, root: Path) -> None:
    with begun(store) as first, Store.open(root) as other:
        with other.downloads.open(NAME, len(DATA)) as second:
            assert second.begun == 0
            second.write(DATA)
            second.commit(NAME, len(DATA))
        first.write(DATA[HALF:])
        first.commit(NAME, len(DATA))
    assert store.blobs.read(NAME, len(DATA)) == DATA
    assert not store.downloads.paths()
    assert not os.listdir(store.place.tmp)


def test_a_file_that_became_a_blob_is_never_written_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it the one who had it may be done with it."""
    import fcntl

    first = begun(store)
    first.write(DATA[HALF:])
    real = fcntl.flock

    def late(fd: int, how: int) -> None:
        if not first_is_done:
            first_is_done.append(True)
            first.commit(NAME, len(DATA))
        real(fd, how)

    first_is_done: list[bool] = []
    monkeypatch.setattr(fcntl, "flock", late)
    with store.downloads.open(NAME, len(DATA)) as second:
        assert first_is_done
        assert second.begun == 0
        second.write(b"other")
    assert store.blobs.read(NAME, len(DATA)) == DATA


def test_who_is_killed_lets_go(store: Store, root: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from pybuild.store.store import Store
store = Store.open(Path(sys.argv[1]))
given = store.downloads.open(sys.argv[2], {len(DATA)})
given.write(sys.stdin.buffer.read({HALF}))
print("written", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(root), NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(DATA[:HALF])
        process.stdin.flush()
        assert process.stdout.readline() == b"written\n"
        with store.downloads.open(NAME, len(DATA)) as meanwhile:
            assert meanwhile.begun == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
    with store.downloads.open(NAME, len(DATA)) as again:
        assert b"".join(again.blocks()) == DATA[:HALF]


def test_beginnings_go_with_time_and_with_a_prune(store: Store) -> None:
    begun(store).close()
    [path] = store.downloads.paths()
    assert store.sweep() == []
    assert store.downloads.paths()
    assert not store.prune(types={"cache"}).items
    assert not store.prune(until=time.time() - 60).items
    assert not store.prune(limits=Limits(1 << 40)).items
    assert [item.kind for item in store.prune(limits=Limits(1), dry_run=True).items] == ["download"]
    assert sum(row.size for row in store.df()) >= HALF
    [item] = store.prune().items
    assert (item.kind, item.name) == ("download", NAME)
    assert item.size >= HALF
    assert not store.downloads.paths()
    begun(store).close()
    os.utime(path, (0, time.time() - KEPT_SECONDS - 1))
    with store.downloads.open(NAME, len(DATA)) as used:
        store.sweep()
        assert used.begun == HALF
        assert store.downloads.paths()
    store.sweep()
    assert not store.downloads.paths()
