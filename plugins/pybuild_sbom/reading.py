"""From the name of an image to what is installed in it."""

from collections.abc import Collection
from typing import NamedTuple

from pybuild.plugin import ImageTree, image_tree, inspect_image, read_image_files
from pybuild_sbom import apk, dpkg, npm, python, rpm
from pybuild_sbom.model import Distribution, Files, Package, Reader, merged

READERS: dict[str, Reader] = {"dpkg": dpkg, "apk": apk, "rpm": rpm, "pip": python, "npm": npm}

_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_MAX_BYTES = {"rpm": 1 << 30}
_ANY_MAX_BYTES = 64 << 20
"""Larger files under the names of databases are none."""


class Contents(NamedTuple):
    """An image and its packages: `digests` are what its repositories call it, `created` is in RFC 3339."""

    name: str
    id: str
    digests: tuple[str, ...]
    platform: str
    created: str
    distribution: Distribution
    packages: tuple[Package, ...]
    layers: tuple[str, ...]
    origins: dict[str, str]
    """By path of a database the digest of the layer it comes from."""


def contents(name: str, skip: Collection[str] = ()) -> Contents:
    """Return what is installed in an image of the store; raise NotFoundError and SbomError.

    Of one for several platforms it is the image for this machine's.
    """
    tree = image_tree(name)
    about = inspect_image(tree.id)
    readers = {kind: reader for kind, reader in READERS.items() if kind not in skip}
    files = _read(tree, readers)
    packages = merged(package for reader in readers.values() for package in reader.packages(files))
    shown = next(iter(about.get("RepoTags") or ()), "") if _is_id(name, about["Id"]) else name
    return Contents(
        name=shown or about["Id"],
        id=about["Id"],
        digests=tuple(about.get("RepoDigests") or ()),
        platform="/".join(filter(None, (about["Os"], about["Architecture"], about.get("Variant", "")))),
        created=about.get("Created") or "",
        distribution=files.distribution,
        packages=tuple(packages),
        layers=tree.layers,
        origins={path: tree.layers[tree.origins[path]] for one in packages for path in one.places},
    )


def _is_id(name: str, identity: str) -> bool:
    return identity.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))


def _read(tree: ImageTree, readers: dict[str, Reader]) -> Files:
    wanted: dict[str, list[str]] = {kind: [] for kind in readers}
    for path, entry in tree.entries.items():
        if entry.type in "fh":
            for kind, reader in readers.items():
                if entry.size <= _MAX_BYTES.get(kind, _ANY_MAX_BYTES) and reader.wanted(path):
                    wanted[kind].append(path)
    paths = sorted({*_OS_RELEASE, *(path for some in wanted.values() for path in some)} & tree.entries.keys())
    content = dict(read_image_files(tree.id, paths))
    text = next((content[path] for path in _OS_RELEASE if path in content), b"").decode(errors="replace")
    return Files(tree.entries, content, _distribution(text))


def _distribution(text: str) -> Distribution:
    """Read os-release(5)."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            values[name.strip()] = value.strip().strip("\"'")
    named = values.get("PRETTY_NAME") or values.get("NAME", "")
    return Distribution(values.get("ID", ""), values.get("VERSION_ID", ""), named, values.get("HOME_URL", ""))
