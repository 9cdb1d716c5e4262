"""Packages of npm: what lies in node_modules, and the lock files beside."""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any

from pybuild_sbom.model import Files, Package

_INSTALLED = re.compile(r"(?:^|/)node_modules/(?:@[^/]+/)?[^/@.][^/]*/package\.json$")
_HIDDEN = "node_modules/.package-lock.json"
_LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
_ALGORITHMS = ("sha512", "sha384", "sha256", "sha1")


def wanted(path: str) -> bool:
    """See Reader."""
    return _INSTALLED.search(path) is not None or _is_lock(path)


def _is_lock(path: str) -> bool:
    name = path.rpartition("/")[2]
    return path.endswith(_HIDDEN) or (name in _LOCKS and "node_modules/" not in path)


def packages(files: Files) -> Iterator[Package]:
    """See Reader.

    A lock file tells origin and digest of what is installed beside it. Where nothing is, as when a program was bundled,
    what it names is all that is known.
    """
    locked: dict[str, dict[str, Any]] = {}
    installed = [path for path in sorted(files.content) if _INSTALLED.search(path)]
    # The hidden one tells what npm did install, so it counts more
    for path in sorted(filter(_is_lock, files.content), key=lambda path: path.endswith(_HIDDEN)):
        base = path.removesuffix(_HIDDEN) if path.endswith(_HIDDEN) else path[: path.rfind("/") + 1]
        rows = _rows(files.text(path))
        locked.update({f"{base}{place}/package.json": row for place, row in rows.items()})
        if not path.endswith(_HIDDEN) and not any(one.startswith(f"{base}node_modules/") for one in files.entries):
            yield from _named(rows, path)
    for path in installed:
        about = _object(files.text(path))
        if _is_text(about, "name") and _is_text(about, "version"):
            yield _package(about, path, locked.get(path, {}))


def _named(rows: dict[str, dict[str, Any]], path: str) -> Iterator[Package]:
    for place, row in rows.items():
        if place and _is_text(row, "version") and not (row.get("dev") or row.get("link")):
            name = row["name"] if _is_text(row, "name") else place.rpartition("node_modules/")[2]
            yield _package({**row, "name": name}, path, row)._replace(notes=(("npm:named-by", "the lock file alone"),))


def _rows(text: str) -> dict[str, dict[str, Any]]:
    """Return what a lock file of version 2 or 3 names by place."""
    rows = _object(text).get("packages")
    return {place: row for place, row in rows.items() if isinstance(row, dict)} if isinstance(rows, dict) else {}


def _package(about: dict[str, Any], path: str, lock: dict[str, Any]) -> Package:
    scope, _, name = about["name"].rpartition("/")
    return Package(
        kind="npm",
        name=name,
        version=about["version"],
        places=(path,),
        namespace=scope,
        licences=tuple(_licences(about)),
        supplier=_person(about.get("author")),
        homepage=about["homepage"] if _is_text(about, "homepage") else "",
        summary=about["description"] if _is_text(about, "description") else "",
        download=lock["resolved"] if _is_text(lock, "resolved") and lock["resolved"].startswith("http") else "",
        checksums=tuple(_integrity(lock.get("integrity"))),
    )


def _licences(about: dict[str, Any]) -> Iterator[str]:
    """Yield the licences; a list, as old packages have it, is a choice."""
    stated = about.get("license") or about.get("licenses")
    several = stated if isinstance(stated, list) else [stated]
    names = [one.get("type") if isinstance(one, dict) else one for one in several]
    found = [name for name in names if isinstance(name, str) and name]
    if found:
        yield " OR ".join(found)


def _person(value: object) -> str:
    if isinstance(value, dict):
        name, mail = value.get("name"), value.get("email")
        return f"{name} <{mail}>" if name and mail else str(name or "")
    # "Name <mail> (site)"
    return value.partition("(")[0].strip() if isinstance(value, str) else ""


def _integrity(value: object) -> Iterator[tuple[str, str]]:
    """Yield the strongest digest of a package's archive (W3C: Subresource Integrity)."""
    given = dict(one.split("-", 1) for one in str(value or "").split() if "-" in one)
    for algorithm in _ALGORITHMS:
        if algorithm in given:
            try:
                yield algorithm, base64.b64decode(given[algorithm].partition("?")[0], validate=True).hex()
            except binascii.Error:
                continue
            return


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_text(about: dict[str, Any], key: str) -> bool:
    return isinstance(about.get(key), str) and bool(about[key])
