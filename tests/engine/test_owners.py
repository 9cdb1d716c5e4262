"""Owners looked up in the image's own files."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pybuild.engine.owners import OwnerError, owner_of
from pybuild.engine.sources import LayerSource, archive_source
from pybuild.layer.tarwriter import TarWriter
from pybuild.tree.entry import DIR, FILE, SYMLINK, Entry

PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbroken\nodd:x:"
PASSWD += "\u00b2:5::/:\n".encode()
GROUP = b"root:x:0:\nstaff:x:50:app\n"

MakeImage = Callable[..., LayerSource]


@pytest.fixture
def image(tmp_path: Path) -> MakeImage:
    def make(*entries: tuple[Entry, bytes | None]) -> LayerSource:
        fd = os.open(tmp_path / "layer", os.O_RDWR | os.O_CREAT)
        writer = TarWriter(fd)
        for entry, content in entries:
            writer.add(entry, content)
        return archive_source(fd, writer.finish().toc)

    return make


def usual(image: MakeImage) -> LayerSource:
    return image(
        (Entry(path=b"etc", type=DIR, mode=0o755), None),
        (Entry(path=b"etc/group", type=FILE), GROUP),
        (Entry(path=b"etc/passwd", type=FILE), PASSWD),
    )


@pytest.mark.parametrize(
    ("spec", "owner"),
    [
        ("app", (1000, 1001)),
        ("app:staff", (1000, 50)),
        ("app:7", (1000, 7)),
        ("7", (7, 7)),
        ("7:8", (7, 8)),
        ("0:staff", (0, 50)),
        (":staff", (0, 50)),
        ("app:", (1000, 0)),
        ("7:", (7, 0)),
        ("0" * 5000 + "7", (7, 7)),
    ],
)
def test_names_and_numbers(image: MakeImage, spec: str, owner: tuple[int, int]) -> None:
    assert owner_of(spec, usual(image)) == owner


@pytest.mark.parametrize("spec", ["nobody", "app:nogroup", "", ":", "4294967295", "99999999999", "9" * 5000, "odd"])
def test_what_is_unknown_or_out_of_range_is_an_error(image: MakeImage, spec: str) -> None:
    with pytest.raises(OwnerError):
        owner_of(spec, usual(image))


def test_without_an_image_only_numbers_count() -> None:
    assert owner_of("3:4", None) == (3, 4)
    with pytest.raises(OwnerError):
        owner_of("app", None)


def test_link_in_place_of_passwd_stays_inside_the_image(image: MakeImage) -> None:
    hostile = image(
        (Entry(path=b"etc", type=DIR, mode=0o755), None),
        (Entry(path=b"etc/passwd", type=SYMLINK, link=b"../../../../etc/shadow"), None),
    )
    with pytest.raises(OwnerError):
        owner_of("root", hostile)


def test_content_is_found_by_its_place_in_the_layer(image: MakeImage) -> None:
    source = usual(image)
    with source:
        assert source.read(b"etc/passwd") == PASSWD
        assert source.digest(b"etc/passwd") == hashlib.sha256(PASSWD).digest()
        assert source.read(b"etc/shadow") is None
