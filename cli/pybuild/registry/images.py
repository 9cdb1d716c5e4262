"""Images of a registry: what a tag stands for, and manifest and config of the one that is for a platform."""

import io
from typing import NamedTuple

from pybuild.oci.digest import Digest, InvalidDigestError, digest_of, parse_digest
from pybuild.oci.image import (
    MAX_DOCUMENT,
    Descriptor,
    ImageConfig,
    Index,
    InvalidImageError,
    Manifest,
    decode,
)
from pybuild.oci.manifests import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    check_config,
    check_manifest,
    choose,
    platform_of,
    read_document,
)
from pybuild.oci.platform import Platform
from pybuild.oci.reference import Reference
from pybuild.registry.blobs import Source, fetch_blob, pull_scope
from pybuild.registry.errors import MissingError, WrongContentError

ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
DIGEST_HEADER = "Docker-Content-Digest"
SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

_MAX_NESTING = 3
_WHERE = "the registry"


class Document(NamedTuple):
    """A manifest or index as it came: its digest is that of `data`."""

    digest: Digest
    media_type: str
    data: bytes


class RemoteImage(NamedTuple):
    """An image of a registry. `digest` is what the name stands for: that of an index, or of the manifest itself."""

    digest: Digest
    manifest: Document
    layers: tuple[Descriptor, ...]
    config_bytes: bytes
    config: ImageConfig


def resolve(source: Source, what: str) -> Digest | None:
    """Return the digest that a tag stands for without fetching anything, None when the registry does not tell it.

    Why it does not, an answer with a body tells better.
    """
    return _told(source, what)[0]


def standing_index(source: Source, tag: str) -> Digest | None:
    """Return the digest of the index that a tag stands for, None when it stands for one image, or nobody tells."""
    digest, media_type = _told(source, tag)
    return digest if media_type in INDEX_TYPES else None


def _told(source: Source, what: str) -> tuple[Digest | None, str]:
    path, scopes = f"{source.repository}/manifests/{what}", pull_scope(source.repository)
    with source.client.send("HEAD", path, scopes, headers={"Accept": ACCEPT}, accept=(200, 403, 404, 405)) as response:
        told = response.headers.get(DIGEST_HEADER, "") if response.status == 200 else ""
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    try:
        return parse_digest(told), media_type
    except InvalidDigestError:
        return None, media_type


def fetch_document(source: Source, what: str) -> Document:
    """Return a manifest or index by tag or digest, checked against the digest that is known of it."""
    client, path = source.client, f"{source.repository}/manifests/{what}"
    with client.send("GET", path, pull_scope(source.repository), headers={"Accept": ACCEPT}) as response:
        data = client.transport.read_all(response, f"GET {client.url(path)}", MAX_DOCUMENT)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        told = response.headers.get(DIGEST_HEADER, "")
    found = digest_of(data)
    wanted = what if what.startswith("sha256:") else told if told.startswith("sha256:") else found
    if found != wanted:
        raise WrongContentError(
            f"GET {client.url(path)}: the content is not what its digest says: {found}",
            "something on the way changes content; another try may help",
        )
    return Document(found, _media_type(media_type, data), data)


def _media_type(header: str, data: bytes) -> str:
    """Return the type of a document; some servers of files say nothing of use."""
    if header in (*INDEX_TYPES, *MANIFEST_TYPES):
        return header
    if header in SCHEMA_1 or b'"schemaVersion": 1' in data[:200] or b'"schemaVersion":1' in data[:200]:
        raise InvalidImageError(
            "the image is in docker's schema 1, which is too old", "push it again with a newer tool"
        )
    own = decode(data, Manifest).media_type
    if own in (*INDEX_TYPES, *MANIFEST_TYPES):
        return own
    raise InvalidImageError(f"the registry holds something that is no image: {header or own!r:.100}")


def fetch_image(source: Source, reference: Reference, platform: Platform) -> RemoteImage:
    """Return what a name stands for at one of its places, for a platform; nothing of its layers is fetched.

    Raises MissingError when there is none for that platform, InvalidImageError, RegistryError.
    """
    document = top = fetch_document(source, str(reference.digest or reference.tag))
    for _ in range(_MAX_NESTING):
        if document.media_type in MANIFEST_TYPES:
            break
        index = read_document(document.data, Index, document.media_type, INDEX_TYPES, _WHERE)
        row = choose(index.manifests or (), platform)
        if row is None:
            raise _none_for(reference, platform, index)
        document = fetch_document(source, row.digest)
        if document.media_type != row.media_type or len(document.data) != row.size:
            raise InvalidImageError(f"a document of the registry is not what the index says: {row.digest}")
    else:
        raise InvalidImageError("indexes of the registry are nested too deep")
    manifest = read_document(document.data, Manifest, document.media_type, MANIFEST_TYPES, _WHERE)
    described, layers = check_manifest(manifest, _WHERE)
    if described.size > MAX_DOCUMENT:
        raise InvalidImageError(f"the config of the image is over the limit of {MAX_DOCUMENT} bytes")
    out = io.BytesIO()
    fetch_blob([source], described, out.write)
    config = decode(out.getvalue(), ImageConfig)
    check_config(config, len(layers), _WHERE)
    return RemoteImage(top.digest, document, tuple(layers), out.getvalue(), config)


def _none_for(reference: Reference, platform: Platform, index: Index) -> MissingError:
    known = dict.fromkeys(str(found) for row in index.manifests or () if (found := platform_of(row)) is not None)
    known.pop("unknown/unknown", None)
    return MissingError(
        f"there is no image for {platform}: {reference.familiar()}",
        f"there are some for {', '.join(list(known)[:12])}; `--platform` chooses" if known else "",
    )
