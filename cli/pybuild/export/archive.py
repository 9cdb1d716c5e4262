"""Image archives: an OCI image layout in a tar (image-layout.md), with docker's manifest.json for `docker save`."""

import io
import json
import os
import tarfile
from collections.abc import Sequence
from typing import BinaryIO

from pybuild.export.image import ExportImage, ExportIndex
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    encode,
)
from pybuild.oci.reference import Reference

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


class ArchiveWriter:
    """Writes blobs, each once, then the index. The stream may be a pipe."""

    def __init__(self, out: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20)  # noqa: SIM115
        self._written: set[str] = set()
        self._directory("blobs")
        self._directory("blobs/sha256")

    def _directory(self, name: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(info)

    def file(self, name: str, data: bytes) -> None:
        """Write a small file."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))

    def blob(self, digest: Digest, data: bytes) -> None:
        """Write a small blob."""
        if digest not in self._written:
            self._written.add(digest)
            self.file(blob_name(digest), data)

    def blob_file(self, digest: Digest, size: int, fd: int) -> None:
        """Write a blob from a descriptor, which is closed."""
        with os.fdopen(fd, "rb", buffering=1 << 20) as file:
            if digest in self._written:
                return
            self._written.add(digest)
            info = tarfile.TarInfo(blob_name(digest))
            info.size, info.mode = size, 0o644
            self._tar.addfile(info, file)

    def close(self) -> None:
        """Write the end of the archive; the stream stays open."""
        self._tar.close()


def blob_name(digest: Digest) -> str:
    """Return the path of a blob in an image layout."""
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def write_oci(images: Sequence[ExportImage | ExportIndex], out: BinaryIO, *, compression: str) -> Digest:
    """Write an OCI archive; return the digest of the (first) manifest or index.

    `compression` is none, gzip or zstd. Raises OSError when `out` does not take it.
    """
    writer = ArchiveWriter(out)
    writer.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    descriptors = [entry for image in images for entry in _add(writer, image, compression)]
    index = Index(media_type=OCI_INDEX, manifests=descriptors)
    writer.file("index.json", encode(index))
    writer.close()
    return descriptors[0].digest


def write_docker(images: Sequence[ExportImage | ExportIndex], out: BinaryIO) -> None:
    """Write what `docker save` writes since 25.0: manifest.json and an image layout at once, layers uncompressed.

    Of an index, manifest.json has the main image, the layout all of them.
    """
    writer = ArchiveWriter(out)
    writer.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    descriptors: list[Descriptor] = []
    rows = []
    repositories: dict[str, dict[str, str]] = {}
    for given in images:
        descriptors += _add(writer, given, "none")
        image = given.images[given.main] if isinstance(given, ExportIndex) else given
        tagged = [name for name in given.names if name.tag is not None]
        rows.append(
            {
                "Config": blob_name(image.id),
                "RepoTags": [name.familiar() for name in tagged] or None,
                "Layers": [blob_name(diff_id) for diff_id in image.config.rootfs.diff_ids],
            }
        )
        for name in tagged:
            repository, _, tag = name.familiar().rpartition(":")
            repositories.setdefault(repository, {})[tag] = image.id.removeprefix("sha256:")
    writer.file("index.json", encode(Index(media_type=OCI_INDEX, manifests=descriptors)))
    writer.file("manifest.json", json.dumps(rows, separators=(",", ":")).encode())
    writer.file("repositories", json.dumps(repositories, separators=(",", ":")).encode())
    writer.close()


def manifest_of(image: ExportImage, layers: list[Descriptor]) -> Manifest:
    """Return the manifest of an image whose layers are stored as described."""
    config = Descriptor(OCI_CONFIG, image.id, len(image.config_bytes))
    return Manifest(media_type=OCI_MANIFEST, config=config, layers=layers)


def _add(writer: ArchiveWriter, image: ExportImage | ExportIndex, compression: str) -> list[Descriptor]:
    """Write what belongs to an image, or to the images of an index; return an index entry for each name."""
    if isinstance(image, ExportIndex):
        entries, data = entries_of(image, [_add_image(writer, one, compression) for one in image.images])
        writer.blob(digest_of(data), data)
        return entries
    digest, size = _add_image(writer, image, compression)
    entries, inner = index_entries(image, digest, size)
    if inner is not None:
        writer.blob(digest_of(inner), inner)
    return entries


def _add_image(writer: ArchiveWriter, image: ExportImage, compression: str) -> tuple[Digest, int]:
    """Write an image's blobs; return digest and size of its manifest."""
    layers: list[Descriptor] = []
    for diff_id in image.config.rootfs.diff_ids:
        if compression == "none":
            descriptor = Descriptor(OCI_LAYER, diff_id, image.layer_size(diff_id))
            fd = image.open_layer(diff_id)
        else:
            descriptor, fd = image.compressed(diff_id, compression)
        writer.blob_file(descriptor.digest, descriptor.size, fd)
        layers.append(descriptor)
    writer.blob(image.id, image.config_bytes)
    data = encode(manifest_of(image, layers))
    digest = digest_of(data)
    writer.blob(digest, data)
    return digest, len(data)


def entries_of(index: ExportIndex, manifests: Sequence[tuple[Digest, int]]) -> tuple[list[Descriptor], bytes]:
    """Return the descriptors that name an index, and its bytes; `manifests` are digest and size of each image's."""
    rows = [
        Descriptor(OCI_MANIFEST, digest, size, annotations=row.annotations, platform=row.platform)
        for row, (digest, size) in zip(index.rows, manifests, strict=True)
    ]
    data = encode(Index(media_type=OCI_INDEX, manifests=rows, annotations=index.annotations))
    return [Descriptor(OCI_INDEX, digest_of(data), len(data), annotations=notes) for notes in _notes(index.names)], data


def _notes(names: Sequence[Reference]) -> list[dict[str, str]]:
    """Return the annotations that carry names, one for each, at least one."""
    return [
        {CONTAINERD_NAME: str(name), REF_NAME: name.tag} if name.tag else {CONTAINERD_NAME: str(name)} for name in names
    ] or [{}]


def index_entries(image: ExportImage, digest: Digest, size: int) -> tuple[list[Descriptor], bytes | None]:
    """Return the descriptors of an index that name the image: one for each name, at least one.

    With `by_platform` they name an index of platforms with the image in it, whose bytes come second.
    """
    platform = {"architecture": image.config.architecture, "os": image.config.os}
    if image.config.variant:
        platform["variant"] = image.config.variant
    annotations = _notes(image.names)
    if not image.by_platform:
        return [
            Descriptor(OCI_MANIFEST, digest, size, annotations=notes, platform=platform) for notes in annotations
        ], None
    inner = encode(Index(media_type=OCI_INDEX, manifests=[Descriptor(OCI_MANIFEST, digest, size, platform=platform)]))
    return [Descriptor(OCI_INDEX, digest_of(inner), len(inner), annotations=notes) for notes in annotations], inner
