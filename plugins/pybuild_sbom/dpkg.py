"""Debian packages: dpkg's status file, and the directory of status files that distroless images have."""

import re
from collections.abc import Iterator

from pybuild_sbom.fields import first, paragraphs
from pybuild_sbom.model import Files, Package

STATUS = "var/lib/dpkg/status"
DIRECTORY = "var/lib/dpkg/status.d/"
DOC = "usr/share/doc/"

_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z][\w.+-]*[\w+])")


def wanted(path: str) -> bool:
    """See Reader."""
    return _is_status(path) or (path.startswith(DOC) and path.endswith("/copyright") and path.count("/") == 4)


def _is_status(path: str) -> bool:
    return path == STATUS or (path.startswith(DIRECTORY) and not path.endswith(".md5sums"))


def packages(files: Files) -> Iterator[Package]:
    """See Reader."""
    for path in sorted(filter(_is_status, files.content)):
        for fields in paragraphs(files.text(path)):
            # "install ok installed"; what was removed may leave its configuration
            if first(fields, "status").split()[2:] in ([], ["installed"]) and first(fields, "package"):
                yield _package(fields, path, files)


def _package(fields: dict[str, list[str]], path: str, files: Files) -> Package:
    name, version = first(fields, "package"), first(fields, "version")
    source, _, its_version = first(fields, "source").partition(" ")
    upstream = ""
    if source:
        its_version = its_version.strip("() ")
        upstream = f"{source}@{its_version}" if its_version else source
    qualifiers = {"arch": first(fields, "architecture"), "distro": files.distribution.label, "upstream": upstream}
    return Package(
        kind="deb",
        name=name,
        version=version,
        places=(path,),
        namespace=files.distribution.id or "debian",
        qualifiers=tuple((key, value) for key, value in qualifiers.items() if value),
        licences=tuple(licences(files.text(_copyright(name, files)))),
        supplier=first(fields, "maintainer"),
        homepage=first(fields, "homepage"),
        summary=first(fields, "description"),
    )


def _copyright(name: str, files: Files) -> str:
    """Return where the copyright file of a package is: its directory may be a link to another package's."""
    entry = files.entries.get(DOC + name)
    if entry is not None and entry.type == "l" and "/" not in entry.link:
        name = entry.link
    return f"{DOC}{name}/copyright"


def licences(text: str) -> list[str]:
    """Return the short names of licences in a copyright file, or the common licences that it points to.

    Machine-readable ones (DEP-5) name the licence of each group of files.
    """
    found: set[str] = set()
    if text.lstrip().lower().startswith("format"):
        for fields in paragraphs(text):
            if "license" in fields and ("files" in fields or "format" in fields):
                found.add(first(fields, "license"))
    else:
        found.update(_COMMON.findall(text))
    return sorted(found - {""})
