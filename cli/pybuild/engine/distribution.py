"""What a registry says when nothing is to come or go: whether it knows somebody, and what a name stands for there."""

import io
from collections.abc import Mapping
from threading import Event as Flag
from typing import Any

from pybuild.api.request import Registries, Secret
from pybuild.engine.registries import RegistryClients
from pybuild.errors import UsageError
from pybuild.oci.image import ImageConfig, Index, Manifest, decode
from pybuild.oci.manifests import INDEX_TYPES, MANIFEST_TYPES, platform_of, read_document
from pybuild.oci.platform import Platform, normalise
from pybuild.oci.reference import Reference, parse_reference

_WHERE = "the registry"


def log_in(registry: str, entry: Secret, settings: Registries, proxies: Mapping[str, str]) -> None:
    """Ask a registry, as docker's files name it, whether it takes credentials; raise AuthError, RegistryError.

    `entry` is docker's AuthConfig as JSON. Nothing is kept: that is for the client to do.
    """
    from pybuild.registry.credentials import given_credentials, host_in
    from pybuild.registry.login import check

    credentials = given_credentials(entry)
    if credentials is None:
        raise UsageError("a login needs `username` and `password`, or `identitytoken`")
    host = host_in(registry)
    domain = parse_reference(f"{host}/login").domain
    if domain != host:
        raise UsageError(f"not a registry: {registry}", "write its host, or host:port, as in names of images")
    with RegistryClients(settings, proxies, "", Flag(), lambda _: credentials) as clients:
        [source] = clients.sources(Reference(domain, "login", "latest"), pull=False)
        check(source.client, credentials)


def described(name: str, settings: Registries, proxies: Mapping[str, str]) -> dict[str, Any]:
    """Return what a name stands for at its registry, as `GET /distribution/{name}/json`; raise RegistryError.

    `{"Descriptor": {mediaType, digest, size}, "Platforms": [{architecture, os, variant}]}`
    """
    from pybuild.registry.blobs import fetch_blob, first_of
    from pybuild.registry.images import fetch_document

    reference = parse_reference(name)
    with RegistryClients(settings, proxies, "", Flag()) as clients:
        sources = clients.sources(reference)
        document = first_of(sources, lambda source: fetch_document(source, str(reference.digest or reference.tag)))
        if document.media_type in INDEX_TYPES:
            index = read_document(document.data, Index, document.media_type, INDEX_TYPES, _WHERE)
            platforms = [found for row in index.manifests or () if (found := platform_of(row)) is not None]
        else:
            manifest = read_document(document.data, Manifest, document.media_type, MANIFEST_TYPES, _WHERE)
            out = io.BytesIO()
            if manifest.config is not None:
                fetch_blob(sources, manifest.config, out.write)
            platforms = [_platform(out.getvalue())]
    return {
        "Descriptor": {
            "mediaType": document.media_type,
            "digest": document.digest,
            "size": len(document.data),
        },
        "Platforms": [
            {"architecture": one.architecture, "os": one.os, **({"variant": one.variant} if one.variant else {})}
            for one in platforms
        ],
    }


def _platform(data: bytes) -> Platform:
    config = decode(data, ImageConfig)
    return normalise(config.os, config.architecture, config.variant)
