"""A store and layers to put into it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import ImageConfig, RootFS, RunConfig, encode
from pybuild.store.store import Store
from pybuild.tree.entry import FILE, Entry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root) as opened:
        yield opened


def add_layer(store: Store, content: bytes) -> Digest:
    """Keep a layer; what is in it does not matter to the store."""
    diff_id = store.blobs.put(content)
    store.layers.record(diff_id, len(content), [Entry(path=b"f", type=FILE, size=len(content), digest=b"d" * 32)])
    return diff_id


def config_of(*diff_ids: Digest, **labels: str) -> bytes:
    """Return the config of an image with these layers."""
    return encode(
        ImageConfig(
            architecture="amd64",
            os="linux",
            rootfs=RootFS(diff_ids=[*diff_ids]),
            config=RunConfig(Labels=labels or None),
        )
    )


def after_reboot(root: Path) -> None:
    """Change the store as a reboot would look like: rows carry the id of another boot."""
    with Store.open(root) as store:
        for table in ("blobs", "layers", "snapshots"):
            store.index.write(f"UPDATE {table} SET boot = 'an earlier one'")


def name_of(content: bytes) -> Digest:
    return digest_of(content)
