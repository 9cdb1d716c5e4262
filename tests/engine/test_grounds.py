"""Whole trees for RUN steps: where they come from, who has them, and that nobody's is changed by others."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from pybuild.engine.grounds import Grounds
from pybuild.engine.snapshots import FLATTENED_AT_ONCE, Snapshots, flattened
from pybuild.engine.workers import Workers
from pybuild.oci.digest import Digest
from pybuild.sandbox.spec import MAX_LAYERS
from pybuild.store.store import Store

pytestmark = pytest.mark.userns


class World:
    """A store with three layers, and the grounds of builds in it."""

    def __init__(self, place: Path) -> None:
        self.store = Store.open(place / "store")
        self.workers = Workers(Event())
        self.layers = [self.add({"one": "1", "d/old": "old"}), self.add({"two": "2"}), self.add({"d/.wh.old": ""})]

    def add(self, files: dict[str, str]) -> Digest:
        """Put a layer into the store."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, text in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
        with self.store.blobs.create() as source, self.store.blobs.create() as blob:
            os.write(source.fd, data.getvalue())
            os.lseek(source.fd, 0, os.SEEK_SET)
            packed = self.workers.ingest(source.fd, blob.fd, layer=True)
            blob.commit(packed.diff_id, packed.size)
        self.store.layers.record(packed.diff_id, packed.size, packed.toc)
        return packed.diff_id

    def grounds(self) -> Grounds:
        """Return the grounds of another build."""
        return Grounds(self.store, self.workers, Snapshots(self.store, self.workers), "copy")

    def kept(self) -> int:
        """Return how many trees are in the store."""
        return len(self.store.snapshots.list())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.workers:
        yield made
    # The first ones have ended, and so have the removals that went on beside the test
    with Workers(Event()) as workers:
        for path in (*(tmp_path / "store/tmp").iterdir(), *(tmp_path / "store/snapshots").iterdir()):
            workers.remove(path)
    made.store.close()


def test_tree_is_all_layers_over_each_other(world: World) -> None:
    ground = world.grounds().take(world.layers)
    assert (ground.snapshotter, ground.lowers) == ("copy", ())
    assert sorted(os.listdir(ground.staging / "fs")) == ["d", "one", "two"]
    assert os.listdir(ground.staging / "fs/d") == []


def test_tree_is_handed_on_and_not_copied(world: World) -> None:
    grounds = world.grounds()
    first = grounds.take(world.layers[:1])
    inode = (first.staging / "fs/one").stat().st_ino
    (first.staging / "fs/two").write_text("2")
    grounds.keep(first, world.layers[:1], world.layers[1])
    assert world.kept() == 1
    second = grounds.take(world.layers)
    assert world.kept() == 0
    assert (second.staging / "fs/one").stat().st_ino == inode
    assert os.listdir(second.staging / "fs/d") == []


def test_two_at_once_have_trees_of_their_own(world: World) -> None:
    grounds = world.grounds()
    grounds.keep(grounds.take(world.layers[:1]), world.layers[:1], world.layers[1])
    one, other = grounds.take(world.layers[:2]), grounds.take(world.layers[:2])
    (one.staging / "fs/one").write_text("changed")
    assert (other.staging / "fs/one").read_text() == "1"
    assert (other.staging / "fs/two").read_text() == "2"


def test_tree_that_is_read_is_not_taken(world: World) -> None:
    grounds = world.grounds()
    with grounds.reading(world.layers) as path:
        taken = grounds.take(world.layers)
        (taken.staging / "fs/one").write_text("changed")
        assert (path / "one").read_text() == "1"
        with world.grounds().reading(world.layers) as again:
            assert again == path
    assert world.kept() == 1


def test_mounts_that_are_written_to_have_copies(world: World) -> None:
    grounds = world.grounds()
    with ExitStack() as stack:
        read = grounds.view(stack, world.layers, b"/a", b"", read_only=True)
        written = grounds.view(stack, world.layers, b"/b", b"", read_only=False)
        assert read.path != written.path
        Path(os.fsdecode(written.path), "one").write_text("changed")
        assert Path(os.fsdecode(read.path), "one").read_text() == "1"


def test_where_content_is_shared_trees_of_earlier_builds_stay(world: World) -> None:
    earlier = world.grounds()
    earlier.keep(earlier.take(world.layers[:1]), world.layers[:1], world.layers[1])
    # That decides; how a copy is made is the file system's business
    world.workers.shares_content = True
    later = world.grounds()
    taken = later.take(world.layers[:2])
    assert world.kept() == 1
    (taken.staging / "fs/one").write_text("changed")
    assert (world.grounds().take(world.layers[:2]).staging / "fs/one").read_text() == "1"
    later.keep(taken, world.layers[:2], world.layers[2])
    assert world.kept() == 2
    # Its own are handed on all the same
    later.take(world.layers)
    assert world.kept() == 1


def test_trees_before_a_reboot_are_not_trusted(world: World) -> None:
    grounds = world.grounds()
    grounds.keep(grounds.take(world.layers[:1]), world.layers[:1], world.layers[1])
    world.store.index.write("UPDATE snapshots SET boot = 'another'")
    ground = world.grounds().take(world.layers[:2])
    assert (ground.staging / "fs/two").read_text() == "2"


@pytest.mark.parametrize("count", [1, MAX_LAYERS, MAX_LAYERS + 1, 749, 750, 1500])
def test_what_is_flattened_leaves_as_many_as_fit_and_changes_seldom(count: int) -> None:
    flat = flattened(count)
    assert flat % FLATTENED_AT_ONCE == 0
    assert count - flat + bool(flat) <= MAX_LAYERS
    assert flat <= count
    assert (flat == 0) == (count <= MAX_LAYERS)
