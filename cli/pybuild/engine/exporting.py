"""Images of the store handed to exporters; what they write appears at its destination whole or not at all."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from pybuild.api.request import Output
from pybuild.engine.sources import stage_source
from pybuild.errors import UsageError
from pybuild.export.archive import write_docker, write_oci
from pybuild.export.errors import ExportError
from pybuild.export.image import ExportImage, ExportIndex
from pybuild.export.layout import write_layout
from pybuild.export.rootfs import spool, write_directory, write_files, write_tar, write_tars
from pybuild.layer.compress import compress
from pybuild.oci.digest import Digest
from pybuild.oci.image import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from pybuild.oci.manifests import platform_of
from pybuild.oci.platform import host_platform
from pybuild.oci.reference import Reference
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord
from pybuild.store.store import Store

COMPRESSIONS = ("none", "gzip", "zstd")
REGISTRY = "registry"
PUSH_KEYS = ("name", "compression", "compression-level", "oci-mediatypes")
_EPOCH, _REWRITE, _BY_PLATFORM = "source-date-epoch", "rewrite-timestamp", "multi-platform"
_MEDIA_TYPES = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


def check(outputs: Sequence[Output], *, several: bool = False) -> None:
    """Raise, before anything is built, what `export` and `write` would raise for outputs that cannot be.

    A destination may still fail to take what comes: this asks for what is wrong already. `several` platforms are not
    for every kind.
    """
    for output in outputs:
        if several and output.type == "docker":
            raise one_platform()
        if output.type == "oci":
            _compression(output.attrs, "gzip")
        elif output.type in ("local", "tar"):
            _time(output.attrs)
        elif output.type == "docker":
            _no_more(output.attrs, (_REWRITE,))
        elif output.type == REGISTRY:
            _no_more(output.attrs, (_REWRITE, *PUSH_KEYS))
        else:
            raise _unknown_type(output.type)
        if output.type != REGISTRY and output.dest != "-":
            _check_destination(Path(output.dest), tree=output.type == "local" or _is_layout(output))


def _check_destination(dest: Path, *, tree: bool) -> None:
    if tree and dest.exists() and not dest.is_dir():
        raise ExportError(f"the destination is not a directory: {dest}")
    if not tree and dest.is_dir():
        raise _is_directory(dest)
    above = dest if tree and dest.is_dir() else dest.parent
    if not tree and not above.is_dir():
        raise ExportError(f"no such directory for the output: {above}")
    if above.is_dir() and not dest.is_file() and not os.access(above, os.W_OK | os.X_OK):
        raise ExportError(f"cannot write to {above}: permission denied")


def _is_layout(output: Output) -> bool:
    return output.type == "oci" and output.attrs.get("tar", "true").lower() in ("false", "0")


def _unknown_type(kind: str) -> UsageError:
    return UsageError(f"unknown output type: {kind}", "known: oci, docker, tar, local, registry")


def one_platform() -> UsageError:
    """Return the error about several platforms where there can be one."""
    return UsageError(
        "an archive of type=docker holds one platform, and there are several",
        "`type=oci` holds them all, `--platform` chooses one",
    )


def _is_directory(dest: Path) -> ExportError:
    return ExportError(f"the destination is a directory: {dest}", "name a file, or use type=local")


def export(store: Store, image_id: Digest, names: Sequence[Reference], output: Output, epoch: int | None) -> str:
    """Carry out one `--output` with a destination on this machine; return what was written, for people.

    `epoch` (seconds) is the time that all files of a tree or flat tar get. Raises UsageError for keys that cannot be
    meant, ExportError when the destination does not take it.
    """
    record = store.indexes.get(image_id) or store.images.resolve(image_id)
    assert record is not None
    dest = Path(output.dest)
    if epoch is not None and output.type in ("local", "tar"):
        output = output._replace(attrs={_EPOCH: str(epoch), **output.attrs})
    if output.type == "local":
        for below, image in _parts(store, record).items():
            with stage_source(store, image.diff_ids) as source:
                write_directory(source, dest / below, _time(output.attrs))
        return str(dest)
    if _is_layout(output):
        whole = _whole(store, record, names, output.attrs)
        write_layout(whole, dest, compression=_compression(output.attrs, "gzip"))
        return str(dest)
    with whole_file(dest) as file:
        write(store, record, names, output.type, file, output.attrs)
    return str(dest)


def write(
    store: Store,
    record: ImageRecord | IndexRecord,
    names: Sequence[Reference],
    type: str,
    out: BinaryIO,
    attrs: Mapping[str, str],
) -> None:
    """Write one image, or all of an index, to a stream as the exporter `type` does: oci, docker or tar."""
    match type:
        case "oci":
            compression = _compression(attrs, "gzip")
            write_oci([_whole(store, record, names, attrs)], out, compression=compression)
        case "docker":
            _no_more(attrs, (_REWRITE,))
            if isinstance(record, IndexRecord):
                raise one_platform()
            write_docker([_image(store, record, names)], out)
        case "tar":
            mtime = _time(attrs)
            with ExitStack() as stack:
                parts = _parts(store, record)
                sources = {
                    below: stack.enter_context(stage_source(store, image.diff_ids)) for below, image in parts.items()
                }
                scratch = stack.enter_context(store.blobs.create())
                if "" in sources:
                    spool(lambda fd: write_tar(sources[""], fd, mtime), out, scratch.fd)
                else:
                    spool(lambda fd: write_tars(sources, fd, mtime), out, scratch.fd)
        case _:
            raise _unknown_type(type)


def files(store: Store, record: ImageRecord, paths: Sequence[bytes], out: BinaryIO) -> None:
    """Write the files at some paths of an image's tree as a tar."""
    with stage_source(store, record.config.rootfs.diff_ids) as source, store.blobs.create() as scratch:
        spool(lambda fd: write_files(source, paths, fd), out, scratch.fd)


def _parts(store: Store, record: ImageRecord | IndexRecord) -> dict[str, ImageRecord]:
    """Return the images to be written as trees, by the directory each has: `linux_arm64`, or "" for an image alone."""
    if isinstance(record, ImageRecord):
        return {"": record}
    parts: dict[str, ImageRecord] = {}
    for member in record.members:
        platform = platform_of(member.row)
        name = str(platform).replace("/", "_") if platform is not None else member.image[7:19]
        image = store.images.get(member.image)
        assert image is not None, "an index holds its images"
        parts.setdefault(name, image)
    return parts


def save(
    store: Store,
    found: Sequence[tuple[ImageRecord | IndexRecord, Reference | None]],
    out: BinaryIO,
    *,
    format: str,
    compression: str,
) -> None:
    """Write several images as one archive; an image named twice is written once, with both names."""
    names: dict[Digest, list[Reference]] = {}
    records: dict[Digest, ImageRecord | IndexRecord] = {}
    for record, name in found:
        records[record.id] = record
        known = names.setdefault(record.id, [])
        if name is not None and name not in known:
            known.append(name)
    images = [_whole(store, record, names[record.id]) for record in records.values()]
    if format == "docker":
        write_docker(images, out)
    elif format == "oci":
        write_oci(images, out, compression=_compression({"compression": compression}, compression))
    else:
        raise UsageError(f"unknown archive format: {format}", "known: docker, oci")


def _whole(
    store: Store,
    record: ImageRecord | IndexRecord,
    names: Sequence[Reference],
    attrs: Mapping[str, str] = MappingProxyType({}),
) -> ExportImage | ExportIndex:
    if isinstance(record, ImageRecord):
        return _image(store, record, names, attrs)
    images = [store.images.get(member.image) for member in record.members]
    here = record.member_for(host_platform(os.uname().machine))
    return ExportIndex(
        images=tuple(_image(store, image, ()) for image in images if image is not None),
        rows=tuple(member.row for member in record.members),
        names=tuple(names),
        annotations=record.annotations,
        main=record.members.index(here) if here is not None else 0,
    )


def _image(
    store: Store, record: ImageRecord, names: Sequence[Reference], attrs: Mapping[str, str] = MappingProxyType({})
) -> ExportImage:
    return ExportImage(
        id=record.id,
        config_bytes=record.data,
        config=record.config,
        names=tuple(names),
        layer_size=store.layers.size,
        open_layer=store.blobs.open,
        compressed=compressor(store),
        by_platform=attrs.get(_BY_PLATFORM) == "true",
    )


def compressor(store: Store) -> Callable[[Digest, str], tuple[Descriptor, int]]:
    """Return what gives a layer in a compressed form: its descriptor, and one of its file, the caller's."""

    def compressed(diff_id: Digest, kind: str) -> tuple[Descriptor, int]:
        """Return a compressed form, made once and kept."""
        media_type = _MEDIA_TYPES[kind]
        for form in store.layers.forms(diff_id):
            if form.media_type == media_type:
                return form, store.blobs.open(form.digest)
        source = store.blobs.open(diff_id)
        try:
            with store.blobs.create() as blob:
                threads = os.cpu_count() or 1
                digest, size = compress(source, blob.fd, "zstd" if kind == "zstd" else "gzip", threads=threads)
                blob.commit(digest, size)
        finally:
            os.close(source)
        form = Descriptor(media_type, digest, size)
        store.layers.add_form(diff_id, form)
        return form, store.blobs.open(digest)

    return compressed


def _compression(attrs: Mapping[str, str], default: str) -> str:
    _no_more(attrs, ("compression", "tar", _REWRITE, _BY_PLATFORM))
    chosen = attrs.get("compression", default)
    chosen = "none" if chosen == "uncompressed" else chosen
    if chosen not in COMPRESSIONS:
        raise UsageError(f"unknown compression: {chosen}", "known: " + ", ".join(COMPRESSIONS))
    return chosen


def _time(attrs: Mapping[str, str]) -> int | None:
    """Return the time in nanoseconds that the files of a tree are to have, None for their own."""
    _no_more(attrs, (_EPOCH, _REWRITE))
    text = attrs.get(_EPOCH, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise UsageError(f"{_EPOCH} of --output is a number of seconds, not: {text}")
    return int(text) * 1_000_000_000 if text else None


def _no_more(attrs: Mapping[str, str], known: Sequence[str]) -> None:
    unknown = sorted(set(attrs) - set(known))
    if unknown:
        raise UsageError(f"unknown key of --output: {unknown[0]}", "known besides type and dest: " + ", ".join(known))


@contextmanager
def directory_of_tar(dest: Path) -> Iterator[BinaryIO]:
    """Give a file for an uncompressed tar that our daemon writes, and write its tree to `dest` as type=local does.

    It is read in this process: not its makers are strangers but what is in its files, which is only copied. Raises
    LayerError, ExportError.
    """
    import tempfile

    from pybuild.engine.sources import archive_source
    from pybuild.layer.index import index_layer

    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        packed = index_layer(file, markers=False)
        write_directory(archive_source(file.fileno(), packed.toc), dest)


@contextmanager
def whole_file(dest: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `dest` when all went well."""
    aside = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    try:
        if dest.is_dir():
            raise _is_directory(dest)
        if dest.exists() and not dest.is_file():
            # A fifo or device takes the bytes as they come
            with dest.open("wb") as file:
                yield file
            return
        with aside.open("xb") as file:
            yield file
        os.replace(aside, dest)
    except OSError as error:
        raise ExportError(f"cannot write {dest}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
