"""Python distributions: directories of metadata that installers leave (PyPA: recording installed projects)."""

import base64
import binascii
import csv
import io
import json
import re
from collections.abc import Iterator

from pybuild_sbom.fields import first, paragraphs
from pybuild_sbom.model import Files, Package

_METADATA = re.compile(r"(?:^|/)[^/]+(?:\.dist-info/METADATA|\.egg-info/PKG-INFO|\.egg-info)$")
_BESIDE = (".dist-info/RECORD", ".dist-info/direct_url.json")
_MEANS_NOTHING = ("", "unknown", "none", "other/proprietary license")
_LONGEST = 100  # characters: what is longer is the licence itself

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
}


def wanted(path: str) -> bool:
    """See Reader."""
    return path.endswith(_BESIDE) or _METADATA.search(path) is not None


def packages(files: Files) -> Iterator[Package]:
    """See Reader."""
    for path in sorted(files.content):
        if _METADATA.search(path):
            # What comes after the headers is the description
            fields = next(paragraphs(files.text(path)), {})
            if first(fields, "name") and first(fields, "version"):
                yield _package(fields, path, files)


def _package(fields: dict[str, list[str]], path: str, files: Files) -> Package:
    folder = path.rpartition("/")[0]
    changed = _changed(folder, files) if path.endswith(".dist-info/METADATA") else ""
    return Package(
        kind="pypi",
        name=first(fields, "name"),
        version=first(fields, "version"),
        places=(path,),
        licences=tuple(_licences(fields)),
        supplier=_supplier(fields),
        homepage=first(fields, "home-page") or _url(fields, ("homepage", "home", "source", "repository")),
        summary=first(fields, "summary"),
        checksums=tuple(_archive(files.text(f"{folder}/direct_url.json"))),
        notes=(("python:changed", changed),) if changed else (),
    )


def _licences(fields: dict[str, list[str]]) -> list[str]:
    stated = first(fields, "license-expression")
    if stated:
        return [stated]
    named = [value.rpartition(" :: ")[2] for value in fields.get("classifier", ()) if value.startswith("License :: ")]
    known = sorted({_CLASSIFIERS.get(name, name) for name in named} - {"OSI Approved"})
    stated = first(fields, "license")
    whole = fields.get("license", [""])[0]
    if stated.lower() in _MEANS_NOTHING or "\n" in whole.strip() or len(stated) > _LONGEST:
        return known
    return [stated] if known in ([], ["BSD"]) else known


def _supplier(fields: dict[str, list[str]]) -> str:
    for who in ("author", "maintainer"):
        name, mail = first(fields, who), first(fields, f"{who}-email")
        if mail and ("<" in mail or not name):
            return mail.partition(",")[0]
        if name and name.lower() != "unknown":
            return f"{name} <{mail}>" if "@" in mail else name
    return ""


def _url(fields: dict[str, list[str]], names: tuple[str, ...]) -> str:
    urls = {}
    for value in fields.get("project-url", ()):
        label, _, url = value.partition(",")
        urls[label.strip().lower()] = url.strip()
    return next((urls[name] for name in names if name in urls), "")


def _archive(text: str) -> Iterator[tuple[str, str]]:
    """Yield the digests of the archive that a distribution was installed from (PEP 610)."""
    try:
        hashes = json.loads(text)["archive_info"]["hashes"]
        yield from sorted((str(name), str(value)) for name, value in hashes.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return


def _changed(folder: str, files: Files) -> str:
    """Say how many of a distribution's files are not as its RECORD says, "" for none."""
    above = folder.rpartition("/")[0]
    gone = changed = 0
    try:
        rows = [*csv.reader(io.StringIO(files.text(f"{folder}/RECORD")))]
    except csv.Error:
        return ""
    for row in rows:
        # Compiled files come and go, and scripts lie above
        if len(row) < 2 or not row[1].startswith("sha256=") or row[0].endswith(".pyc") or ".." in row[0].split("/"):
            continue
        entry = files.entries.get(row[0].lstrip("/") if row[0].startswith("/") else f"{above}/{row[0]}".lstrip("/"))
        if entry is None:
            gone += 1
        elif entry.digest and entry.digest != _hex(row[1].removeprefix("sha256=")):
            changed += 1
    told = [f"{changed} changed" if changed else "", f"{gone} gone" if gone else ""]
    return ", ".join(filter(None, told))


def _hex(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
    except (binascii.Error, ValueError):
        return ""
