"""Indexes hold their images, and stores of an older layout learn to have them."""

import json
import sqlite3
from pathlib import Path

import pytest

from pybuild.errors import ConflictError, NotFoundError
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import ImageConfig, Index, RootFS, decode, encode
from pybuild.oci.platform import Platform
from pybuild.oci.reference import parse_reference
from pybuild.store.indexes import Member
from pybuild.store.least import Limits
from pybuild.store.store import Store
from store.conftest import add_layer

ARM, RISCV = Platform("linux", "arm64"), Platform("linux", "riscv64")


def add_image(store: Store, platform: Platform, content: bytes, tag: str = "") -> Digest:
    config = ImageConfig(
        architecture=platform.architecture, os=platform.os, rootfs=RootFS(diff_ids=[add_layer(store, content)])
    )
    return store.images.put(encode(config), tags=[parse_reference(tag)] if tag else [])


def add_index(store: Store, tag: str, *images: Digest) -> Digest:
    tags = [str(parse_reference(tag))] if tag else []
    return store.indexes.put([store.images.member(image) for image in images], tags=tags)


def test_an_index_is_found_by_its_names_and_gives_the_image_of_a_platform(store: Store) -> None:
    images = [add_image(store, platform, str(platform).encode()) for platform in (ARM, RISCV)]
    index = add_index(store, "app:1", *images)
    for name in ("app:1", "docker.io/library/app:1", index, index[7:], index[7:19]):
        found = store.images.index(name)
        assert found is not None, name
        assert (found.id, found.images, found.tags) == (index, tuple(images), ("app:1",))
    assert digest_of(found.data) == index
    assert [row.platform for row in decode(found.data, Index).manifests or ()] == [
        {"architecture": "arm64", "os": "linux"},
        {"architecture": "riscv64", "os": "linux"},
    ]
    for platform, image in zip((ARM, RISCV), images, strict=True):
        record = store.images.resolve("app:1", platform=platform)
        assert record is not None
        assert record.id == image
    assert store.images.index(images[0]) is None
    assert store.images.index("app:2") is None
    with pytest.raises(NotFoundError):
        store.indexes.put([Member(Digest("sha256:" + "0" * 64), store.images.member(images[0]).row)])
    store.images.tag(parse_reference("other:1"), index)
    assert store.images.index("other:1") == store.images.index("app:1")
    assert store.indexes.delete(index)
    assert store.images.resolve("app:1") is None
    assert store.images.get(images[0]) is not None


def test_a_prune_spares_what_an_index_with_a_name_holds(store: Store) -> None:
    held = [add_image(store, platform, str(platform).encode()) for platform in (ARM, RISCV)]
    loose = add_image(store, ARM, b"loose")
    shared, own = add_image(store, ARM, b"shared", "shared:1"), add_image(store, RISCV, b"own")
    kept, nameless = add_index(store, "app:1", *held), add_index(store, "", shared, held[0], own)
    for options in ({"limits": Limits(max_size=1)}, {"types": ["image"]}, {"all": True}, {}):
        planned = store.prune(dry_run=True, **options)  # type: ignore[arg-type]
        gone = {(item.kind, item.name) for item in planned.items if item.kind in ("image", "index")}
        assert gone == {("image", loose), ("image", own), ("index", nameless)}, options
    usage = {row.type: row for row in store.df()}
    assert (usage["Images"].total, usage["Images"].active) == (5, 3)
    store.prune()
    assert [index.id for index in store.indexes.list()] == [kept]
    assert {image.id for image in store.images.list()} == {*held, shared}
    assert not [item for item in store.prune().items if item.kind in ("image", "index", "layer")]


def test_an_image_just_built_is_spared_with_its_index(store: Store) -> None:
    images = [add_image(store, platform, str(platform).encode()) for platform in (ARM, RISCV)]
    index = add_index(store, "", *images)
    store.prune(limits=Limits(max_size=1), spared=[index])
    assert {image.id for image in store.images.list()} == set(images)


def test_ids_that_begin_alike_are_told_apart(store: Store) -> None:
    images = [add_image(store, ARM, str(number).encode()) for number in range(40)]
    indexes = [add_index(store, "", image) for image in images]
    first = {identity[7:8] for identity in images}
    alike = next(identity for identity in indexes if identity[7:8] in first)
    with pytest.raises(ConflictError, match="several images"):
        store.images.resolve(alike[7:8])


def test_a_store_of_the_first_layout_is_taken_over(root: Path) -> None:
    with Store.open(root) as store:
        image = add_image(store, ARM, b"x", "app:1")
    with sqlite3.connect(root / "index.sqlite") as database:
        database.execute("DROP TABLE indexes")
    database.close()
    (root / "version").write_text("1\n")
    with Store.open(root) as store:
        assert not store.notices, "it was taken for damaged"
        assert store.images.resolve("app:1") == store.images.get(image)
        assert add_index(store, "app:2", image)
    assert (root / "version").read_text() == "2\n"


def test_an_index_lives_through_a_repair_if_its_images_do(root: Path) -> None:
    with Store.open(root) as store:
        images = [add_image(store, platform, str(platform).encode()) for platform in (ARM, RISCV)]
        index, broken = add_index(store, "app:1", *images), add_index(store, "app:2", images[0])
        store.index.write("UPDATE indexes SET images = ? WHERE id = ?", (json.dumps(["sha256:" + "0" * 64]), broken))
        store.index.mark_damaged()
    with Store.open(root) as store:
        assert store.notices
        assert [one.id for one in store.indexes.list()] == [index]
        assert store.images.index("app:1") is not None
        assert store.images.index("app:2") is None
