"""An OCI image layout as a directory."""

import os
import shutil
from pathlib import Path

from pybuild.export.archive import entries_of, index_entries, manifest_of
from pybuild.export.errors import ExportError
from pybuild.export.image import ExportImage, ExportIndex
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import OCI_INDEX, OCI_LAYER, Descriptor, Index, encode


def write_layout(image: ExportImage | ExportIndex, dest: Path, *, compression: str) -> Digest:
    """Write an image layout to the directory `dest`, which must be absent or empty.

    Returns the digest of the manifest, or of the index of several platforms.
    """
    staging = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    blobs = staging / "blobs" / "sha256"
    try:
        if dest.is_dir() and any(dest.iterdir()):
            raise ExportError(f"the destination is not empty: {dest}")
        blobs.mkdir(parents=True)
        if isinstance(image, ExportIndex):
            entries, inner = entries_of(image, [_add(blobs, one, compression) for one in image.images])
            digest = _blob(blobs, inner)
        else:
            digest, size = _add(blobs, image, compression)
            entries, outer = index_entries(image, digest, size)
            if outer is not None:
                _blob(blobs, outer)
        (staging / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
        index = Index(media_type=OCI_INDEX, manifests=entries)
        (staging / "index.json").write_bytes(encode(index))
        os.rename(staging, dest)
    except OSError as error:
        raise ExportError(f"cannot write {dest}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return digest


def _add(blobs: Path, image: ExportImage, compression: str) -> tuple[Digest, int]:
    """Write an image's blobs; return digest and size of its manifest."""
    layers: list[Descriptor] = []
    for diff_id in image.config.rootfs.diff_ids:
        if compression == "none":
            descriptor = Descriptor(OCI_LAYER, diff_id, image.layer_size(diff_id))
            fd = image.open_layer(diff_id)
        else:
            descriptor, fd = image.compressed(diff_id, compression)
        with os.fdopen(fd, "rb") as source, (blobs / descriptor.digest.removeprefix("sha256:")).open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        layers.append(descriptor)
    (blobs / image.id.removeprefix("sha256:")).write_bytes(image.config_bytes)
    data = encode(manifest_of(image, layers))
    return _blob(blobs, data), len(data)


def _blob(blobs: Path, data: bytes) -> Digest:
    digest = digest_of(data)
    (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    return digest
