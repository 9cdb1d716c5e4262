"""An image to write: two layers, one of them twice, and a config that names them."""

import io
import os
import tarfile
import tempfile

import pytest

from pybuild.export.image import ExportImage
from pybuild.layer.compress import compress
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import (
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
    History,
    ImageConfig,
    RootFS,
    RunConfig,
    encode,
)
from pybuild.oci.reference import parse_reference


def layer_of(**files: bytes) -> bytes:
    """Return a layer with these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def open_bytes(data: bytes) -> int:
    """Return a descriptor of a file without a name."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        return os.dup(file.fileno())


def image_of(*layers: bytes, names: tuple[str, ...] = ("app:1",), architecture: str = "amd64") -> ExportImage:
    """Return an image of uncompressed layers."""
    stored = {digest_of(layer): layer for layer in layers}
    config = ImageConfig(
        architecture=architecture,
        os="linux",
        config=RunConfig(Env=["A=1"], Cmd=["sh"]),
        rootfs=RootFS(diff_ids=[digest_of(layer) for layer in layers]),
        history=[History(created_by="test") for _ in layers],
    )

    def compressed(diff_id: Digest, kind: str) -> tuple[Descriptor, int]:
        source, target = open_bytes(stored[diff_id]), open_bytes(b"")
        try:
            digest, size = compress(source, target, "zstd" if kind == "zstd" else "gzip")
        finally:
            os.close(source)
        os.lseek(target, 0, os.SEEK_SET)
        return Descriptor(OCI_LAYER_ZSTD if kind == "zstd" else OCI_LAYER_GZIP, digest, size), target

    data = encode(config)
    return ExportImage(
        id=digest_of(data),
        config_bytes=data,
        config=config,
        names=tuple(parse_reference(name) for name in names),
        layer_size=lambda diff_id: len(stored[diff_id]),
        open_layer=lambda diff_id: open_bytes(stored[diff_id]),
        compressed=compressed,
    )


ONE = layer_of(one=b"1" * 5000, same=b"s")
TWO = layer_of(two=b"2" * 3_000_000)


@pytest.fixture
def image() -> ExportImage:
    return image_of(ONE, TWO, ONE)
