"""The tags of a repository (OCI distribution specification 1.1, "Listing Tags")."""

import re
from typing import Any

import msgspec

from pybuild.oci.image import MAX_DOCUMENT
from pybuild.oci.reference import InvalidReferenceError, Reference, parse_reference
from pybuild.registry.blobs import Source, pull_scope
from pybuild.registry.errors import RegistryError

MAX_PAGES = 100
"""Pages of a list that are read."""

_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


def tags(source: Source, name: Reference) -> list[Reference]:
    """Return the repository of `name` with each of its tags, in the registry's order; raise RegistryError.

    Names that are no tags are left out: nothing could be asked by them.
    """
    client = source.client
    path = f"{source.repository}/tags/list"
    found: dict[str, Reference] = {}
    for _ in range(MAX_PAGES):
        with client.send("GET", path, pull_scope(source.repository)) as response:
            what = f"GET {client.url(path) if '://' not in path else path}"
            data = client.transport.read_all(response, what, MAX_DOCUMENT)
            more = _NEXT.search(response.headers.get("Link", ""))
        for tag in _listed(data, what):
            try:
                found[tag] = parse_reference(f"{name.familiar_name()}:{tag}")
            except InvalidReferenceError:
                continue
        if more is None:
            return [*found.values()]
        path = client.next(path, more[1])
    raise RegistryError(f"{what}: the list of tags has more than {MAX_PAGES} pages")


def _listed(data: bytes, what: str) -> list[str]:
    try:
        document: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    listed = document.get("tags", ()) if isinstance(document, dict) else None
    # A repository whose tags were all deleted has null
    listed = () if listed is None and isinstance(document, dict) else listed
    if not isinstance(listed, list | tuple) or not all(isinstance(tag, str) for tag in listed):
        raise RegistryError(f"{what}: the registry answers with no list of tags")
    return [*listed]
