"""A cache as a directory: an OCI image layout whose manifest has BuildKit's config of a cache.

One is written over the last: blobs that are there stay, those that only the last one had go.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pybuild.export.errors import ExportError
from pybuild.oci.cacheconfig import CACHE_CONFIG
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, InvalidImageError, Manifest, decode, encode

REF_NAME = "org.opencontainers.image.ref.name"

Layer = tuple[Descriptor, Callable[[], int]]
"""A layer's descriptor, and what opens its blob: the descriptor of the file is the caller's."""


def write_cache(dest: Path, config: bytes, layers: Sequence[Layer], tag: str) -> Digest:
    """Write the cache and return its manifest's digest; raise ExportError, and then the old one is still there."""
    blobs = dest / "blobs" / "sha256"
    try:
        blobs.mkdir(parents=True, exist_ok=True)
        with _alone(dest):
            before = _referred(dest, tag)
            for descriptor, opened in layers:
                _put(blobs, descriptor.digest, descriptor.size, opened)
            manifest = manifest_of(config, layers)
            for data in (config, manifest):
                _write(blobs / digest_of(data)[7:], data)
            _write(dest / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            row = Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest), annotations={REF_NAME: tag})
            others = [old for old in _rows(dest) if old.annotations.get(REF_NAME) != tag]
            _write(dest / "index.json", encode(Index(media_type=OCI_INDEX, manifests=[*others, row])))
            for digest in before - _all_referred(dest):
                (blobs / digest[7:]).unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"cannot write the cache to {dest}: {error.strerror or error}") from error
    return row.digest


def manifest_of(config: bytes, layers: Sequence[Layer]) -> bytes:
    """Return the manifest of a cache."""
    described = Descriptor(CACHE_CONFIG, digest_of(config), len(config))
    return encode(Manifest(media_type=OCI_MANIFEST, config=described, layers=[descriptor for descriptor, _ in layers]))


@contextmanager
def _alone(dest: Path) -> Iterator[None]:
    """Keep other builds from the directory until the end of the block."""
    fd = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _rows(dest: Path) -> list[Descriptor]:
    try:
        return decode((dest / "index.json").read_bytes(), Index).manifests or []
    except (FileNotFoundError, InvalidImageError):
        return []


def _referred(dest: Path, tag: str | None) -> set[Digest]:
    """Return the blobs of the manifests there, of those with that tag if one is given."""
    found: set[Digest] = set()
    for row in _rows(dest):
        if tag is not None and row.annotations.get(REF_NAME) != tag:
            continue
        try:
            manifest = decode((dest / "blobs" / "sha256" / row.digest[7:]).read_bytes(), Manifest)
        except (FileNotFoundError, InvalidImageError):
            continue
        found.add(row.digest)
        parts = [*([manifest.config] if manifest.config else ()), *(manifest.layers or ())]
        found.update(descriptor.digest for descriptor in parts)
    return found


def _all_referred(dest: Path) -> set[Digest]:
    return _referred(dest, None)


def _put(blobs: Path, digest: Digest, size: int, opened: Callable[[], int]) -> None:
    target = blobs / digest[7:]
    if target.is_file() and target.stat().st_size == size:
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(opened(), "rb") as source, aside.open("xb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)


def _write(target: Path, data: bytes) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(data)
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)
