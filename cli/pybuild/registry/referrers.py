"""What refers to an image: told and kept by the registry, or, where it knows none of that, in an index of ours.

OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

import re
from typing import Any
from urllib.parse import quote

import msgspec

from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import MAX_DOCUMENT, OCI_INDEX, Descriptor, Index, InvalidImageError
from pybuild.oci.manifests import read_document
from pybuild.registry.blobs import Source, has_blob, pull_scope
from pybuild.registry.errors import MissingError, RegistryError
from pybuild.registry.images import fetch_document
from pybuild.registry.upload import InMemory, push_blob, push_scope, put_manifest

MAX_PAGES = 100
"""Pages of a list that are read."""

MAX_TRIES = 5
"""How often a row is added again that somebody else's list has taken away."""

_WHERE = "the registry"
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


def described(source: Source, what: str) -> Descriptor:
    """Return the descriptor of a manifest or index, by tag or digest; raise MissingError, RegistryError."""
    document = fetch_document(source, what)
    return Descriptor(document.media_type, document.digest, len(document.data))


def send_unless_there(target: Source, digest: Digest, data: bytes) -> None:
    """Send a small blob that a repository lacks; raise RegistryError."""
    if not has_blob(target.client, target.repository, digest, push_scope(target.repository)):
        push_blob(target, InMemory(data, digest))


def put_referrer(target: Source, subject: Digest, row: Descriptor, manifest: bytes) -> None:
    """Give a repository the manifest that `row` describes, and see to it that it is found by its subject.

    Raises RegistryError.
    """
    taken_note_of = put_manifest(target, row.digest, row.media_type, manifest, row.digest)
    if taken_note_of != subject:
        _add_to_index(target, subject, row)


def referrers(source: Source, subject: Digest, artifact_type: str = "") -> list[Descriptor]:
    """Return what refers to a manifest, of one type if one is given; raise RegistryError, InvalidImageError."""
    rows = _told(source, subject, artifact_type)
    if rows is None:
        data = _index(source, subject)
        rows = [] if data is None else read_document(data, Index, OCI_INDEX, (OCI_INDEX,), _WHERE).manifests or []
    # Not every registry looks at the filter
    return [row for row in rows if artifact_type in ("", row.artifact_type)]


def _told(source: Source, subject: Digest, artifact_type: str) -> list[Descriptor] | None:
    """Return what the registry says, None when it knows nothing of referrers."""
    client = source.client
    path = f"{source.repository}/referrers/{subject}"
    if artifact_type:
        path += f"?artifactType={quote(artifact_type, safe='')}"
    rows: list[Descriptor] = []
    for _ in range(MAX_PAGES):
        with client.send("GET", path, pull_scope(source.repository), accept=(200, 400, 404, 405)) as response:
            data = client.transport.read_all(response, f"GET {client.url(path)}", MAX_DOCUMENT)
            if response.status != 200:
                return None
            more = _NEXT.search(response.headers.get("Link", ""))
            rows += read_document(data, Index, OCI_INDEX, (OCI_INDEX,), _WHERE).manifests or ()
            if more is None:
                return rows
            path = client.next(path, more[1])
    raise RegistryError(f"GET {client.url(path)}: the list of referrers has more than {MAX_PAGES} pages")


def _tag(subject: Digest) -> str:
    return subject.replace(":", "-")


def _index(source: Source, subject: Digest) -> bytes | None:
    """Return the index under the tag that stands in for the API, None when there is none."""
    try:
        return fetch_document(source, _tag(subject)).data
    except MissingError:
        return None


def _add_to_index(target: Source, subject: Digest, row: Descriptor) -> None:
    """Add a row to the index, and look whether it is there: others may do the same, and nobody locks."""
    for _ in range(MAX_TRIES):
        data = _index(target, subject)
        index = _decoded(data)
        rows = index["manifests"]
        if any(isinstance(known, dict) and known.get("digest") == row.digest for known in rows):
            return
        rows.append(msgspec.to_builtins(row))
        changed = msgspec.json.encode(index, order="deterministic")
        if len(changed) > MAX_DOCUMENT:
            raise RegistryError(f"the list of what refers to an image is full: {subject}")
        put_manifest(target, _tag(subject), OCI_INDEX, changed, digest_of(changed))
    if row.digest not in {known.digest for known in referrers(target, subject)}:
        raise RegistryError(f"others change the list of referrers all the time: {subject}", "try again")


def _decoded(data: bytes | None) -> dict[str, Any]:
    """Return an index as plain values: what others have put into it stays, known or not."""
    if data is None:
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    read_document(data, Index, OCI_INDEX, (OCI_INDEX,), _WHERE)
    index: dict[str, Any] = msgspec.json.decode(data)
    if not isinstance(index.get("manifests"), list):
        raise InvalidImageError("the list of what refers to an image is none")
    return index
