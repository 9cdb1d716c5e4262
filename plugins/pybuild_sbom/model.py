"""What readers find: packages, and the files of an image to find them in."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from pybuild.plugin import LayerEntry, PybuildError


class SbomError(PybuildError):
    """A database of packages that cannot be read."""


class Distribution(NamedTuple):
    """What os-release tells: `id` as `debian`, `version` as `12`; "" where it is silent."""

    id: str = ""
    version: str = ""
    name: str = ""
    homepage: str = ""

    @property
    def label(self) -> str:
        """Return what purls call it: `debian-12`."""
        return "-".join(filter(None, (self.id, self.version)))


class Package(NamedTuple):
    """A package that is installed.

    `kind` is a purl type (deb, apk, rpm, pypi, npm), `licences` all hold, each as the package has it. `checksums` are
    algorithm and hex of the archive it came in. `places` are the paths that tell of it, `notes` names and values of
    what a database says beyond.
    """

    kind: str
    name: str
    version: str
    places: tuple[str, ...]
    namespace: str = ""
    qualifiers: tuple[tuple[str, str], ...] = ()
    licences: tuple[str, ...] = ()
    supplier: str = ""
    homepage: str = ""
    summary: str = ""
    download: str = ""
    checksums: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def full_name(self) -> str:
        """Return the name with its scope, where it has one."""
        return f"{self.namespace}/{self.name}" if self.kind == "npm" and self.namespace else self.name

    @property
    def purl(self) -> str:
        """Return the package URL (purl specification)."""
        from packageurl import PackageURL

        return PackageURL(self.kind, self.namespace, self.name, self.version, dict(self.qualifiers)).to_string()


class Files(NamedTuple):
    """The final tree of an image, and what those of its files hold that a reader wanted."""

    entries: Mapping[str, LayerEntry]
    content: Mapping[str, bytes]
    distribution: Distribution = Distribution()

    def text(self, path: str) -> str:
        """Return what a file holds, "" for one that was not wanted or is not there."""
        return self.content.get(path, b"").decode(errors="replace")


class Reader(Protocol):
    """A module that knows one kind of database."""

    def wanted(self, path: str) -> bool:
        """Tell whether what a file holds is needed."""

    def packages(self, files: Files) -> Iterator[Package]:
        """Yield what is installed; raise SbomError for a database that cannot be read."""


_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}


def _sound(checksums: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Leave out what is no checksum of its algorithm."""
    return tuple(
        (name, value.lower())
        for name, value in checksums
        if len(value) == _DIGITS.get(name) and re.fullmatch("[0-9a-fA-F]+", value)
    )


def merged(packages: Iterable[Package]) -> list[Package]:
    """Return packages by kind, name and version; of those that are the same in all but their places, one."""
    found: dict[str, Package] = {}
    for package in packages:
        package = package._replace(checksums=_sound(package.checksums))
        known = found.setdefault(package.purl, package)
        places = tuple(sorted({*known.places, *package.places}))
        found[package.purl] = known._replace(places=places, checksums=known.checksums or package.checksums)
    return [found[purl] for purl in sorted(found)]
