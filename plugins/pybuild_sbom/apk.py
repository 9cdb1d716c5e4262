"""Alpine packages: the database of apk."""

import base64
import binascii
from collections.abc import Iterator

from pybuild_sbom.model import Files, Package

DATABASES = ("lib/apk/db/installed", "usr/lib/apk/db/installed")


def wanted(path: str) -> bool:
    """See Reader."""
    return path in DATABASES


def packages(files: Files) -> Iterator[Package]:
    """See Reader."""
    for path in filter(wanted, files.content):
        for paragraph in files.text(path).split("\n\n"):
            # Lines about files repeat their letters; those about the package come first
            fields: dict[str, str] = {}
            for line in paragraph.splitlines():
                if line[1:2] == ":":
                    fields.setdefault(line[0], line[2:])
            if "P" in fields and "V" in fields:
                yield _package(fields, path, files)


def _package(fields: dict[str, str], path: str, files: Files) -> Package:
    origin = fields.get("o", "")
    qualifiers = {
        "arch": fields.get("A", ""),
        "distro": files.distribution.label,
        "upstream": origin if origin != fields["P"] else "",
    }
    return Package(
        kind="apk",
        name=fields["P"],
        version=fields["V"],
        places=(path,),
        namespace=files.distribution.id or "alpine",
        qualifiers=tuple((key, value) for key, value in qualifiers.items() if value),
        licences=(fields["L"],) if fields.get("L") else (),
        supplier=fields.get("m", ""),
        homepage=fields.get("U", ""),
        summary=fields.get("T", ""),
        notes=tuple(_control(fields.get("C", ""))),
    )


def _control(text: str) -> Iterator[tuple[str, str]]:
    """Yield the digest that apk knows a package by, which is that of its control part and not of the whole."""
    if text.startswith("Q1"):
        try:
            yield "apk:control:sha1", base64.b64decode(text[2:], validate=True).hex()
        except binascii.Error:
            return
