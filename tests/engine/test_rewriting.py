"""Layers with older times."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from pybuild.engine.rewriting import rewrite
from pybuild.engine.workers import Workers
from pybuild.oci.digest import Digest
from pybuild.store.store import Store

LATE, EPOCH = 2000, 1000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "store")
    yield made
    made.close()


def add(store: Store, names: list[str]) -> Digest:
    """Put a layer with these files into the store, as one that comes from elsewhere."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.mtime = LATE
            tar.addfile(entry)
    with Workers(Event()) as workers, store.blobs.create() as source, store.blobs.create() as blob:
        os.write(source.fd, data.getvalue())
        os.lseek(source.fd, 0, os.SEEK_SET)
        packed = workers.ingest(source.fd, blob.fd, layer=True)
        blob.commit(packed.diff_id, packed.size)
    store.layers.record(packed.diff_id, packed.size, packed.toc)
    return packed.diff_id


def test_deletions_stay_where_they_were(store: Store) -> None:
    names = ["a", "d/b", "d/.wh.gone", "d/z", ".wh.early", "x"]
    [diff_id] = rewrite(store, [add(store, names)], EPOCH)
    with tarfile.open(store.blobs.path(diff_id)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members if not member.isdir()] == names
    assert {member.mtime for member in members if ".wh." not in member.name} == {EPOCH}
