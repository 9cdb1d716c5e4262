"""What a name means in the store: an image, the one of an index that is for a platform, or the index."""

from pybuild.engine.inputs import host
from pybuild.engine.whole import make_whole
from pybuild.errors import NotFoundError, UsageError
from pybuild.oci.manifests import fits, platform_of
from pybuild.oci.platform import normalise, parse_platform
from pybuild.oci.reference import Reference, parse_reference
from pybuild.store.images import ImageRecord
from pybuild.store.indexes import IndexRecord
from pybuild.store.store import Store


def resolve(store: Store, name: str) -> ImageRecord:
    """Return the image that a name means, of an index the one for this machine; raise NotFoundError."""
    record = store.images.resolve(name)
    if record is None:
        raise NotFoundError(f"No such image: {name if ':' in name or '@' in name else name + ':latest'}")
    return record


def named_record(store: Store, name: str) -> ImageRecord | IndexRecord:
    """Return the image, or the index, that a name means; raise NotFoundError."""
    return store.images.index(name) or resolve(store, name)


def members_of(store: Store, index: IndexRecord) -> list[ImageRecord]:
    """Return the images of an index in its order."""
    found = [store.images.get(image) for image in index.images]
    return [image for image in found if image is not None]


def complete(store: Store, name: str) -> ImageRecord:
    """Return an image whose layers are all here, fetched if need be; raise NotFoundError, RegistryError."""
    return make_whole(store, resolve(store, name))


def for_platform(store: Store, name: str, platform: str) -> ImageRecord:
    """Return the image for a platform that a name means, alone or in an index; raise NotFoundError, UsageError."""
    wanted = parse_platform(platform, host())
    record = named_record(store, name)
    if isinstance(record, ImageRecord):
        if fits(record.config, wanted):
            return record
        config = record.config
        there = [str(normalise(config.os, config.architecture, config.variant))]
    else:
        member = record.member_for(wanted)
        image = store.images.get(member.image) if member is not None else None
        if image is not None:
            return image
        there = [str(platform_of(member.row) or "unknown") for member in record.members]
    raise NotFoundError(f"No such image for {wanted}: {name}", f"there is one for {', '.join(there)}")


def all_complete(store: Store, name: str, platform: str = "") -> ImageRecord | IndexRecord:
    """Return the image, or the index, that a name means, with all layers here; raise NotFoundError, RegistryError."""
    record = for_platform(store, name, platform) if platform else named_record(store, name)
    if isinstance(record, ImageRecord):
        return make_whole(store, record)
    for image in members_of(store, record):
        make_whole(store, image)
    return record


def reference_in(name: str) -> Reference | None:
    """Return the name as a reference, None when it is an id."""
    bare = name.removeprefix("sha256:")
    if name.startswith("sha256:") or (len(bare) >= 12 and all(char in "0123456789abcdef" for char in bare)):
        return None
    return parse_reference(name)


def id_of(store: Store, base: str, platform: str) -> str:
    """Return what a base image (`FromImage.key`) means by now, "" for nothing; `platform` is that of the build."""
    reference, _, own = base.partition(" ")
    try:
        wanted = parse_platform(own or platform) if own or platform else host()
        record = store.images.resolve(reference, platform=wanted)
        if record is not None and (not own or fits(record.config, wanted)):
            return record.id
        pulled = store.pulled.get(parse_reference(reference), wanted)
    except UsageError:
        # The beginning of an id
        return ""
    return pulled.image_id if pulled is not None else ""
