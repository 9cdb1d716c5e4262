"""Cache mounts: who gets which copy, that a dead user holds nothing, and what prune and df make of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pybuild.store.caches import Held, Sharing
from pybuild.store.store import Store
from support.disk import taken

NAME = "m-" + "a" * 64
OTHER = "m-" + "b" * 64
CLI = Path(__file__).parents[2] / "cli"


class GivenUpError(Exception):
    """Raised by a test that does not want to wait any more."""


def give_up() -> None:
    raise GivenUpError


def use(
    store: Store,
    sharing: Sharing = "shared",
    *,
    name: str = NAME,
    make: Callable[[Path], None] = Path.mkdir,
    discard: Callable[[Path], None] = Path.rmdir,
    wait: Callable[[], None] = give_up,
    id: str = "/id",
) -> AbstractContextManager[Held]:
    return store.caches.use(name, sharing, id=id, target="/t", make=make, discard=discard, wait=wait)


def test_a_cache_is_made_once_and_found_again(store: Store) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.mkdir()
        (path / "f").write_text("first")

    for sharing in ("shared", "private", "locked"):
        with use(store, sharing, make=make) as held:  # type: ignore[arg-type]
            assert (held.path / "f").read_text() == "first"
    assert len(made) == 1
    with use(store, name=OTHER) as held:
        assert os.listdir(held.path) == []


def test_shared_ones_share_and_private_ones_do_not(store: Store) -> None:
    with use(store) as one, use(store) as two:
        assert one.path == two.path
        with use(store, "private") as third, use(store, "private") as fourth:
            assert len({one.path, third.path, fourth.path}) == 3
            # Somebody has the copies for himself: shared is what the first two share
            with use(store) as fifth:
                assert fifth.path == one.path
    with use(store, "private") as again:
        assert again.path == one.path
        with use(store) as beside:
            assert beside.path != again.path


def test_locked_ones_wait_for_each_other(store: Store) -> None:
    order: list[str] = []
    waiting, free = threading.Event(), threading.Event()

    def second() -> None:
        with use(store, "locked", wait=waiting.set) as held:
            order.append(f"second {(held.path / 'f').read_text()}")

    thread = threading.Thread(target=second)
    with use(store, "locked") as held:
        thread.start()
        assert waiting.wait(10)
        (held.path / "f").write_text("x")
        order.append("first")
        free.set()
    thread.join(10)
    assert order == ["first", "second x"]
    with use(store), pytest.raises(GivenUpError), use(store, "locked"):
        pass


def test_an_interrupted_beginning_is_taken_away(store: Store) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), use(store, make=fail):
        pass
    discarded: list[Path] = []

    def discard(path: Path) -> None:
        discarded.append(path)
        path.rmdir()

    with use(store, discard=discard) as held:
        assert held.path.is_dir()
    assert len(discarded) == 1


def test_who_is_killed_holds_nothing(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pybuild.store.store import Store\n"
        "store = Store.open(Path(sys.argv[1]))\n"
        "with store.caches.use(sys.argv[2], 'locked', id='i', target='/t', make=Path.mkdir, discard=Path.rmdir,"
        " wait=lambda: None):\n    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(store.place.root), NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(CLI)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(GivenUpError), use(store, "locked"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with use(store, "locked") as held:
        assert held.path.is_dir()


def test_prune_and_df_know_them(store: Store) -> None:
    for name, id, text in ((NAME, "/go", "x" * 9000), (OTHER, "ns//root/.cache", "y")):
        with use(store, name=name, id=id) as held:
            (held.path / "f").write_text(text)
    rows = {row.type: row for row in store.df()}
    assert (rows["Cache Mounts"].total, rows["Cache Mounts"].reclaimable) == (2, rows["Cache Mounts"].size)
    assert rows["Cache Mounts"].size > 9000
    assert sum(row.size for row in rows.values()) == taken(store)
    assert [cache.shown for cache in store.caches.list()] == ["go", "ns//root/.cache"]
    assert store.prune().items == ()
    assert store.prune(only_caches=["nosuch"]).items == ()
    planned = store.prune(only_caches=["go"], dry_run=True)
    assert planned.items == store.prune(only_caches=["go"]).items
    assert [(item.kind, item.name) for item in planned.items] == [("cache mount", "go")]
    assert [cache.shown for cache in store.caches.list()] == ["ns//root/.cache"]
    assert not [item for item in store.prune(until=time.time() - 100).items if item.kind == "cache mount"]
    assert [item.name for item in store.prune(all=True).items if item.kind == "cache mount"] == ["ns//root/.cache"]
    assert os.listdir(store.place.caches) == []
