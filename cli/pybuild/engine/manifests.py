"""Indexes made by hand, and documents looked at: what `pybuild manifest` asks for."""

import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from pybuild.api.events import Described, Document, Event
from pybuild.api.request import ManifestRequest
from pybuild.engine.inputs import host
from pybuild.engine.pulling import Puller
from pybuild.engine.registries import RegistryClients
from pybuild.engine.workers import Workers
from pybuild.errors import ConflictError, NotFoundError, UsageError
from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import OCI_INDEX, OCI_MANIFEST, Index
from pybuild.oci.manifests import ATTESTATION, INDEX_TYPES, platform_of, read_document
from pybuild.oci.platform import parse_platform
from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord, Member
from pybuild.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from pybuild.registry.blobs import Source

_WHERE = "the registry"


def carry_out(
    request: ManifestRequest, *, store_root: "Path", emit: Callable[[Event], None], cancel: Flag
) -> Described:
    """Inspect, create or annotate, as `request.action` says; `emit` gets every event but the last, one at a time.

    Raises NotFoundError, ConflictError, UsageError, RegistryError, InvalidImageError.
    """
    lock = Lock()

    def tell(event: Event) -> None:
        with lock:
            emit(event)

    with (
        Store.open(store_root) as store,
        store.session(),
        Workers(cancel) as workers,
        RegistryClients(request.registries, request.proxies, "", cancel) as clients,
    ):
        match request.action:
            case "inspect":
                return _inspect(request, store, clients)
            case "create":
                return _create(request, store, clients, Puller(store, workers, clients, tell))
            case "annotate":
                return _annotate(request, store)
    raise UsageError(f"unknown request about manifests: {request.action}")


def _inspect(request: ManifestRequest, store: Store, clients: RegistryClients) -> Described:
    index = None if request.remote else store.images.index(request.name)
    if index is not None:
        return _described(store, request.name, index)
    image = None if request.remote else store.images.resolve(request.name)
    if image is not None:
        return Described(request.name, image.id, (_of_image(store, request.name, image, {}),), time.time())
    return _inspect_remote(request, clients)


def _described(store: Store, name: str, index: IndexRecord) -> Described:
    documents = [Document(name, OCI_INDEX, index.id, index.data.decode())]
    for member in index.members:
        image = store.images.get(member.image)
        assert image is not None, "an index holds its images"
        # As the index has it, whatever form it came in
        data = store.images.manifest(image)
        documents.append(Document(name, OCI_MANIFEST, digest_of(data), data.decode(), member.row.platform or {}))
    return Described(name, index.id, tuple(documents), time.time())


def _of_image(store: Store, name: str, image: ImageRecord, platform: Mapping[str, object]) -> Document:
    kept = store.pulled.manifest(image.id)
    media_type, data = kept if kept is not None else (OCI_MANIFEST, store.images.manifest(image))
    return Document(name, media_type, digest_of(data), data.decode(), platform)


def _inspect_remote(request: ManifestRequest, clients: RegistryClients) -> Described:
    from pybuild.registry.blobs import first_of
    from pybuild.registry.images import fetch_document

    name = parse_reference(request.name)
    sources = clients.sources(name)

    def read(source: "Source") -> list[Document]:
        top = fetch_document(source, str(name.digest or name.tag))
        found = [Document(name.familiar(), top.media_type, top.digest, top.data.decode())]
        if not request.verbose or top.media_type not in INDEX_TYPES:
            return found
        for row in read_document(top.data, Index, top.media_type, INDEX_TYPES, _WHERE).manifests or ():
            one = fetch_document(source, row.digest)
            found.append(Document(name.familiar(), one.media_type, one.digest, one.data.decode(), row.platform or {}))
        return found

    documents = first_of(sources, read)
    return Described(name.familiar(), documents[0].digest, tuple(documents), time.time())


def _create(request: ManifestRequest, store: Store, clients: RegistryClients, puller: Puller) -> Described:
    name = _tagged(request.name)
    old = store.images.index(str(name), ids=False)
    if not request.amend and (old is not None or store.images.resolve(str(name), ids=False) is not None):
        raise ConflictError(
            f"there is an image of this name: {name.familiar()}", "`--amend` adds to an index, `pybuild rmi` removes it"
        )
    members = {member.image: member for member in (old.members if old is not None else ())}
    for text in request.images:
        for member in _members(text, store, clients, puller):
            members[member.image] = member
    if not members:
        raise UsageError("an index holds at least one image", "name images after it")
    annotations = {**(old.annotations if old is not None else {}), **request.annotations}
    identity = store.indexes.put([*members.values()], tags=[str(name)], annotations=annotations)
    made = store.indexes.get(identity)
    assert made is not None
    return _described(store, name.familiar(), made)


def _tagged(text: str) -> Reference:
    name = parse_reference(text)
    if name.digest is not None:
        raise UsageError(f"an index gets a name without a digest: {text}")
    return name


def _members(text: str, store: Store, clients: RegistryClients, puller: Puller) -> Iterator[Member]:
    """Yield what a name brings into an index: an image, or all images of an index; what is not here is pulled."""
    index = store.images.index(text)
    if index is not None:
        yield from index.members
        return
    image = store.images.resolve(text)
    if image is not None:
        yield store.images.member(image.id)
        return
    from pybuild.registry.blobs import first_of
    from pybuild.registry.images import fetch_document

    name = parse_reference(text)
    document = first_of(clients.sources(name), lambda source: fetch_document(source, str(name.digest or name.tag)))
    if document.media_type not in INDEX_TYPES:
        yield store.images.member(puller.pull(name, host(), tag=False)[0].id)
        return
    for row in read_document(document.data, Index, document.media_type, INDEX_TYPES, _WHERE).manifests or ():
        if ATTESTATION in row.annotations:
            continue
        one = name._replace(tag=None, digest=row.digest)
        member = store.images.member(puller.pull(one, platform_of(row) or host(), tag=False)[0].id)
        # What the index says of it, such as a version of its system, stays
        kept = msgspec.structs.replace(member.row, annotations=row.annotations)
        yield Member(member.image, msgspec.structs.replace(kept, platform=row.platform or member.row.platform))


def _annotate(request: ManifestRequest, store: Store) -> Described:
    index = store.images.index(request.name)
    if index is None:
        raise NotFoundError(f"no such index: {request.name}", "`pybuild manifest create` makes one")
    [wanted] = request.images
    chosen = _chosen(store, index, wanted)
    platform = {**(chosen.row.platform or {}), **request.platform}
    annotations = {**chosen.row.annotations, **request.annotations}
    row = msgspec.structs.replace(chosen.row, platform=platform, annotations=annotations)
    members = [Member(member.image, row) if member is chosen else member for member in index.members]
    tags = [str(parse_reference(tag)) for tag in index.tags]
    identity = store.indexes.put(members, tags=tags, annotations=index.annotations)
    if identity != index.id:
        store.indexes.delete(index.id)
    made = store.indexes.get(identity)
    assert made is not None
    return _described(store, request.name, made)


def _chosen(store: Store, index: IndexRecord, text: str) -> Member:
    """Return the image of an index that is called `text`: its platform, its id, a name, or the manifest's digest."""
    found = [member for member in index.members if text in (member.row.digest, str(platform_of(member.row)))]
    if not found:
        ids = set(_ids(store, index, text))
        found = [member for member in index.members if member.image in ids]
    if len(found) != 1:
        known = ", ".join(str(platform_of(member.row)) for member in index.members)
        what = "several images of the index are called so" if found else "the index has no such image"
        raise NotFoundError(f"{what}: {text}", f"name one by its platform or id; there are {known}")
    return found[0]


def _ids(store: Store, index: IndexRecord, text: str) -> Iterator[Digest]:
    try:
        image = store.images.resolve(text)
        name = parse_reference(text)
    except (InvalidReferenceError, ConflictError):
        return
    if image is not None:
        yield image.id
    for member in index.members:
        platform = platform_of(member.row)
        for one in filter(None, (platform, host())):
            known = store.pulled.get(name, one)
            if known is not None:
                yield known.image_id


def platform_fields(
    os: str = "", architecture: str = "", variant: str = "", os_version: str = "", os_features: tuple[str, ...] = ()
) -> dict[str, object]:
    """Return fields of a descriptor's platform (image-spec, image-index.md) that were given; raise UsageError."""
    if os or architecture:
        parse_platform(f"{os or 'linux'}/{architecture or 'amd64'}")
    given = {"os": os, "architecture": architecture, "variant": variant, "os.version": os_version}
    fields: dict[str, object] = {name: value for name, value in given.items() if value}
    return {**fields, "os.features": list(os_features)} if os_features else fields
