"""Files attached to images at registries: artifacts that refer to an image, as OCI image 1.1 has them."""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from typing import TYPE_CHECKING

from pybuild.api.artifacts import Artifact, ArtifactFile
from pybuild.api.request import Registries
from pybuild.engine.registries import RegistryClients
from pybuild.errors import UsageError
from pybuild.oci.digest import digest_of, parse_digest
from pybuild.oci.image import OCI_EMPTY, OCI_MANIFEST, Descriptor, InvalidImageError, Manifest, encode
from pybuild.oci.manifests import MANIFEST_TYPES, read_document
from pybuild.oci.reference import Reference, parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybuild.registry.blobs import Source

MAX_FILE = 64 << 20
"""Largest file of an artifact that is read, in bytes."""

EMPTY = b"{}"
"""The config of an artifact that has none (OCI image 1.1, "Guidance for an empty descriptor")."""

_WHERE = "the registry"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


def attach(
    name: str,
    artifact_type: str,
    files: Sequence[ArtifactFile],
    annotations: Mapping[str, str],
    settings: Registries,
    proxies: Mapping[str, str],
) -> Artifact:
    """Send an artifact that refers to what `name` stands for at its registry; raise UsageError, RegistryError."""
    from pybuild.registry import referrers

    for given in (artifact_type, *(file.media_type for file in files)):
        if not _MEDIA_TYPE.fullmatch(given):
            raise UsageError(f"not a media type: {given}", "write for example `application/spdx+json`")
    if not files:
        raise UsageError("an artifact has at least one file")
    reference = parse_reference(name)
    with _target(reference, settings, proxies) as target:
        subject = referrers.described(target, _what(reference))
        layers = [
            Descriptor(file.media_type, digest_of(file.data), len(file.data), dict(file.annotations)) for file in files
        ]
        config = Descriptor(OCI_EMPTY, digest_of(EMPTY), len(EMPTY))
        manifest = encode(
            Manifest(
                media_type=OCI_MANIFEST,
                artifact_type=artifact_type,
                config=config,
                layers=layers,
                subject=subject,
                annotations=dict(annotations),
            )
        )
        contents = {config.digest: EMPTY} | {layer.digest: file.data for layer, file in zip(layers, files)}
        for digest, data in contents.items():
            referrers.send_unless_there(target, digest, data)
        row = Descriptor(
            OCI_MANIFEST, digest_of(manifest), len(manifest), dict(annotations), artifact_type=artifact_type
        )
        referrers.put_referrer(target, subject.digest, row, manifest)
    return Artifact(row.digest, artifact_type, row.size, dict(annotations), subject.digest)


def attached(name: str, artifact_type: str, settings: Registries, proxies: Mapping[str, str]) -> list[Artifact]:
    """Return what refers to that for which `name` stands, of one type or, for "", of any; raise RegistryError."""
    from pybuild.registry import referrers

    reference = parse_reference(name)
    with _target(reference, settings, proxies) as target:
        subject = reference.digest or referrers.described(target, _what(reference)).digest
        rows = referrers.referrers(target, subject, artifact_type)
    return [Artifact(row.digest, row.artifact_type, row.size, row.annotations, subject) for row in rows]


def fetch(name: str, digest: str, settings: Registries, proxies: Mapping[str, str]) -> list[ArtifactFile]:
    """Return the files of an artifact in the repository of `name`; raise RegistryError, InvalidImageError."""
    from pybuild.registry.blobs import fetch_blob
    from pybuild.registry.images import fetch_document

    with _target(parse_reference(name), settings, proxies) as target:
        document = fetch_document(target, parse_digest(digest))
        manifest = read_document(document.data, Manifest, document.media_type, MANIFEST_TYPES, _WHERE)
        files: list[ArtifactFile] = []
        for layer in manifest.layers or ():
            if layer.size > MAX_FILE:
                raise InvalidImageError(f"a file of an artifact is over the limit of {MAX_FILE} bytes: {layer.digest}")
            out = io.BytesIO()
            fetch_blob([target], layer, out.write)
            files.append(ArtifactFile(out.getvalue(), layer.media_type, layer.annotations))
    return files


@contextmanager
def _target(name: Reference, settings: Registries, proxies: Mapping[str, str]) -> "Iterator[Source]":
    with RegistryClients(settings, proxies, "", Flag()) as clients:
        [target] = clients.sources(name, pull=False)
        yield target


def _what(name: Reference) -> str:
    return str(name.digest or name.tag)
