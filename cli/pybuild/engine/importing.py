"""Images taken in: from archives and layouts of others, and from plain root file systems."""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.instructions import Add, Copy, From, Run, Workdir
from pybuild.dockerfile.parse import parse
from pybuild.engine.inputs import host
from pybuild.engine.solve import timestamp
from pybuild.engine.sources import LayerSource, archive_source
from pybuild.engine.workers import Workers
from pybuild.errors import NotFoundError, UsageError
from pybuild.export.errors import InvalidArchiveError
from pybuild.export.reading import FoundImage, FoundIndex, FoundLayer, find_images, find_one
from pybuild.oci.digest import Digest, parse_digest
from pybuild.oci.image import (
    MAX_DOCUMENT,
    Descriptor,
    History,
    ImageConfig,
    RootFS,
    RunConfig,
    encode,
)
from pybuild.oci.manifests import COMPRESSED
from pybuild.oci.platform import Platform
from pybuild.oci.reference import parse_reference
from pybuild.plan.make import make
from pybuild.plan.ops import Plan
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import Member
from pybuild.store.store import Store
from pybuild.tree.entry import FILE, HARDLINK
from pybuild.tree.paths import clean, resolve

_BLOCK = 1 << 20


def load(store: Store, workers: Workers, source: BinaryIO | Path) -> list[dict[str, str]]:
    """Take in the images of an archive (docker or OCI, compressed or not) or of an OCI layout directory.

    Returns `{"name"}` for each name and `{"id"}` for an image without one. Raises InvalidArchiveError and
    LayerError; nothing is named unless the whole image is there.
    """
    answer: list[dict[str, str]] = []
    with _opened(store, workers, source) as archive:
        for found in find_images(archive, host()):
            for image in found.images if isinstance(found, FoundIndex) else (found,):
                for diff_id, layer in zip(image.config.rootfs.diff_ids, image.layers, strict=True):
                    take_layer(store, workers, archive, diff_id, layer)
            answer += _name_index(store, found) if isinstance(found, FoundIndex) else _name(store, found)
    return answer


def take_layout(store: Store, workers: Workers, spec: str, platform: Platform) -> ImageRecord:
    """Take in one image of an OCI layout, without a name; `spec` is `PATH[:TAG][@DIGEST]`.

    Raises InvalidArchiveError, NotFoundError for what is not there, InvalidDigestError, LayerError.
    """
    rest, at, digest = spec.partition("@")
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, tag = rest, ""
    if not Path(path).is_dir():
        raise NotFoundError(f"there is no OCI layout directory: {path}")
    archive = LayoutDirectory(Path(path))
    image = find_one(archive, platform, tag, parse_digest(digest) if at else None)
    for diff_id, layer in zip(image.config.rootfs.diff_ids, image.layers, strict=True):
        take_layer(store, workers, archive, diff_id, layer)
    record = store.images.get(store.images.put(image.config_bytes))
    assert record is not None
    return record


def _name_index(store: Store, index: FoundIndex) -> list[dict[str, str]]:
    members = []
    for image, row in zip(index.images, index.rows, strict=True):
        own = store.images.member(store.images.put(image.config_bytes))
        said = msgspec.structs.replace(own.row, platform=row.platform, annotations=row.annotations)
        members.append(Member(own.image, said))
    identity = store.indexes.put(members, tags=[str(name) for name in index.names], annotations=index.annotations)
    if not index.names:
        return [{"id": identity}]
    return [{"name": name.familiar()} for name in index.names]


def _name(store: Store, image: FoundImage) -> list[dict[str, str]]:
    image_id = store.images.put(image.config_bytes, tags=image.names)
    if not image.names:
        return [{"id": image_id}]
    return [{"name": name.familiar()} for name in image.names]


def import_rootfs(
    store: Store, workers: Workers, stream: BinaryIO, name: str, changes: Sequence[str], message: str
) -> Digest:
    """Make an image of one layer from a root file system archive, with `changes` to its config.

    `name` may be empty. Raises LayerError for a bad archive, DockerfileError for a bad change.
    """
    tags = [parse_reference(name)] if name else []
    config = _changed_config(changes)
    with store.blobs.create() as spool, store.blobs.create() as blob:
        copy_stream(stream, spool.fd)
        packed = workers.ingest(spool.fd, blob.fd, layer=True)
        blob.commit(packed.diff_id, packed.size)
    store.layers.record(packed.diff_id, packed.size, packed.toc)
    created = timestamp(time.time())
    platform = host()
    image = ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        created=created,
        config=config,
        rootfs=RootFS(diff_ids=[packed.diff_id]),
        history=[History(created=created, comment=message or "Imported from -")],
    )
    return store.images.put(encode(image), tags=tags)


def _changed_config(changes: Sequence[str]) -> RunConfig:
    """Return the config that Dockerfile instructions make, without those that need a file system."""
    text = "FROM scratch\n" + "".join(change + "\n" for change in changes)
    dockerfile = parse(text, name="--change")
    for instruction in dockerfile.stages[-1].instructions:
        if isinstance(instruction, Run | Copy | Add | From):
            raise UsageError(f"this instruction cannot be a change: {instruction.original}")
    plan = make(dockerfile, BuildRequest(), {}, host())
    assert isinstance(plan, Plan)
    config = plan.target.config
    if not any(isinstance(instruction, Workdir) for instruction in dockerfile.stages[-1].instructions):
        config = msgspec.structs.replace(config, WorkingDir="")
    return config


def copy_stream(stream: BinaryIO, fd: int) -> None:
    """Write a stream to `fd` and rewind it."""
    while data := stream.read(_BLOCK):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)


class _TarArchive:
    """An archive that was checked and indexed, read in place."""

    def __init__(self, source: LayerSource) -> None:
        self._source = source

    def _path(self, name: str) -> bytes:
        # Older docker archives link layers that images share
        return resolve(self._source.tree, clean(name.encode(errors="surrogateescape")))

    def has(self, name: str) -> bool:
        """See reading.Archive."""
        entry = self._source.tree.get(self._path(name))
        return entry is not None and entry.type in (FILE, HARDLINK)

    def read(self, name: str) -> bytes | None:
        """See reading.Archive."""
        return self._source.read(self._path(name), MAX_DOCUMENT)

    def copy(self, name: str, fd: int) -> Digest:
        """Copy a file to `fd`, rewind it, and return the file's digest."""
        path = self._path(name)
        entry = self._source.tree.get(path)
        if entry is None or entry.type not in (FILE, HARDLINK):
            raise InvalidArchiveError(f"the archive lacks a layer: {name[:200]}")
        source = self._source.open(path)
        left = entry.size
        while left:
            count = os.copy_file_range(source, fd, left)
            if not count:
                raise InvalidArchiveError("the archive is cut short")
            left -= count
        os.lseek(fd, 0, os.SEEK_SET)
        return Digest("sha256:" + entry.digest.hex())


class Layout(Protocol):
    """Files by name, of which some are large."""

    def read(self, name: str) -> bytes | None:
        """See reading.Archive."""

    def copy(self, name: str, fd: int) -> Digest:
        """Write a file to `fd`, rewind that and return the digest; raise InvalidArchiveError when there is none."""


class LayoutDirectory:
    """An OCI layout directory. Links in it may lead anywhere, so none is followed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _open(self, name: str) -> int | None:
        path = clean(name.encode(errors="surrogateescape"))
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        parts = path.split(b"/")
        for part in parts:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                inner = os.open(part, flags if part == parts[-1] else flags | os.O_DIRECTORY, dir_fd=fd)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise InvalidArchiveError(f"cannot read {self._root}/{name}: {error.strerror}") from error
            finally:
                os.close(fd)
            fd = inner
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return fd

    def has(self, name: str) -> bool:
        """See reading.Archive."""
        fd = self._open(name)
        if fd is None:
            return False
        os.close(fd)
        return True

    def read(self, name: str) -> bytes | None:
        """See reading.Archive."""
        fd = self._open(name)
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise InvalidArchiveError(f"a document of the layout is over {MAX_DOCUMENT} bytes: {name[:200]}")
        return data

    def copy(self, name: str, fd: int) -> Digest:
        """See _TarArchive.copy."""
        import hashlib

        source = self._open(name)
        if source is None:
            raise InvalidArchiveError(f"the layout lacks a blob: {name[:200]}")
        state = hashlib.sha256()
        with os.fdopen(source, "rb", buffering=0) as file:
            while data := file.read(_BLOCK):
                state.update(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return Digest("sha256:" + state.hexdigest())


@contextmanager
def _opened(store: Store, workers: Workers, source: BinaryIO | Path) -> Iterator[_TarArchive | LayoutDirectory]:
    if isinstance(source, Path):
        if source.is_dir():
            yield LayoutDirectory(source)
            return
        try:
            stream = source.open("rb")
        except OSError as error:
            raise NotFoundError(f"cannot read the archive: {source}: {error.strerror}") from error
        with stream, _indexed(store, workers, stream) as archive:
            yield archive
        return
    with _indexed(store, workers, source) as archive:
        yield archive


@contextmanager
def _indexed(store: Store, workers: Workers, stream: BinaryIO) -> Iterator[_TarArchive]:
    with store.blobs.create() as spool, store.blobs.create() as plain:
        copy_stream(stream, spool.fd)
        packed = workers.ingest(spool.fd, plain.fd, layer=False)
        spool.abort()
        with archive_source(plain.fd, packed.toc) as source:
            yield _TarArchive(source)


def take_layer(store: Store, workers: Workers, archive: Layout, diff_id: Digest, layer: FoundLayer) -> None:
    """Take a layer into the store, unless it is there; raise InvalidArchiveError or LayerError for another one."""
    if store.layers.has(diff_id):
        return
    with store.blobs.create() as given, store.blobs.create() as plain:
        digest = archive.copy(layer.name, given.fd)
        if layer.descriptor is not None and digest != layer.descriptor.digest:
            raise InvalidArchiveError(f"a blob of the archive is not what its name says: {layer.descriptor.digest}")
        packed = workers.ingest(given.fd, plain.fd, layer=True)
        if packed.diff_id != diff_id:
            raise InvalidArchiveError(f"a layer of the archive is not what the image's config says: {diff_id}")
        plain.commit(diff_id, packed.size)
        store.layers.record(diff_id, packed.size, packed.toc)
        media_type = COMPRESSED.get(layer.descriptor.media_type) if layer.descriptor is not None else None
        if media_type is not None and digest != diff_id:
            # Kept as it came, so that it leaves with the same digest
            size = os.fstat(given.fd).st_size
            given.commit(digest, size)
            store.layers.add_form(diff_id, Descriptor(media_type, digest, size))
