"""Packages of rpm: its database in the form of SQLite (rpm 4.16 and later) or ndb (SUSE)."""

import sqlite3
import struct
from collections.abc import Iterator

from pybuild_sbom.model import Files, Package, SbomError

_DIRECTORIES = ("usr/lib/sysimage/rpm/", "var/lib/rpm/")
_SQLITE, _NDB, _BERKELEY = "rpmdb.sqlite", "Packages.db", "Packages"

# Numbers of tags (rpm: rpmtag.h) and of types of values
_NAME, _VERSION, _RELEASE, _EPOCH, _SUMMARY, _VENDOR, _LICENCE = 1000, 1001, 1002, 1003, 1004, 1011, 1014
_PACKAGER, _URL, _ARCH, _SOURCE, _SHA256_HEADER, _MODULE = 1015, 1020, 1022, 1044, 273, 5096
_INT32, _STRING, _STRINGS, _I18N = 4, 6, 8, 9

_NDB_PAGE, _NDB_BLOCK = 4096, 16


def wanted(path: str) -> bool:
    """See Reader."""
    return any(path == directory + name for directory in _DIRECTORIES for name in (_SQLITE, _NDB))


def packages(files: Files) -> Iterator[Package]:
    """See Reader."""
    there = [path for path in files.content if wanted(path)]
    for path in there:
        read = _of_sqlite if path.endswith(_SQLITE) else _of_ndb
        for blob in read(files.content[path], path):
            header = _header(blob, path)
            # Keys are kept as if they were packages
            if header.get(_NAME) and header[_NAME] != "gpg-pubkey":
                yield _package(header, path, files)
    for directory in _DIRECTORIES:
        if not there and directory + _BERKELEY in files.entries:
            raise SbomError(
                f"the database of rpm is one of Berkeley DB, which cannot be read: /{directory}{_BERKELEY}",
                "`rpmdb --rebuilddb` of a newer rpm makes it one of SQLite; or leave it out: `--skip rpm`",
            )


def _of_sqlite(data: bytes, path: str) -> Iterator[bytes]:
    # A log beside the file was written out when rpm ended; in memory there can be none
    if len(data) > 20 and data[18:20] == b"\2\2":
        data = data[:18] + b"\1\1" + data[20:]
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(data)
        connection.execute("PRAGMA trusted_schema = OFF")
        for (blob,) in connection.execute("SELECT blob FROM Packages ORDER BY hnum"):
            if isinstance(blob, bytes):
                yield blob
    except sqlite3.Error as error:
        raise _damaged(path, str(error)) from error
    finally:
        connection.close()


def _of_ndb(data: bytes, path: str) -> Iterator[bytes]:
    """Yield the headers in a file of rpm's own format (rpm: lib/backend/ndb/rpmpkg.c)."""
    try:
        magic, _, _, pages = struct.unpack_from("<4sIII", data)
        if magic != b"RpmP":
            raise _damaged(path, "it does not begin as one of ndb")
        for at in range(32, pages * _NDB_PAGE, 16):
            slot, index, offset, count = struct.unpack_from("<4sIII", data, at)
            if slot != b"Slot":
                raise _damaged(path, f"there is no slot at {at}")
            if not index or not offset:
                continue
            start = offset * _NDB_BLOCK
            blob, its_index, _, length = struct.unpack_from("<4sIII", data, start)
            if blob != b"BlbS" or its_index != index or length > count * _NDB_BLOCK:
                raise _damaged(path, f"there is no package at {start}")
            yield data[start + 16 : start + 16 + length]
    except struct.error as error:
        raise _damaged(path, "it ends too early") from error


def _damaged(path: str, why: str) -> SbomError:
    return SbomError(f"the database of rpm cannot be read: /{path}: {why}", "`--skip rpm` leaves it out")


def _header(blob: bytes, path: str) -> dict[int, str | int]:
    """Return strings and numbers of a header (rpm: "Header structure") by their tags; of lists the first."""
    values: dict[int, str | int] = {}
    try:
        count, size = struct.unpack_from(">II", blob)
        start = 8 + count * 16
        store = blob[start : start + size]
        for index in range(count):
            tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, 8 + index * 16)
            if kind in (_STRING, _STRINGS, _I18N) and 0 <= offset < len(store):
                end = store.find(b"\0", offset)
                values[tag] = store[offset : end if end >= 0 else len(store)].decode(errors="replace")
            elif kind == _INT32:
                [values[tag]] = struct.unpack_from(">I", store, offset)
    except struct.error as error:
        raise _damaged(path, "a package in it is cut short") from error
    return values


def _package(header: dict[int, str | int], path: str, files: Files) -> Package:
    def text(tag: int) -> str:
        value = str(header.get(tag, ""))
        return "" if value == "(none)" else value

    qualifiers = {
        "arch": text(_ARCH),
        "epoch": text(_EPOCH),
        "distro": files.distribution.label,
        "upstream": text(_SOURCE),
    }
    notes = {"rpm:header:sha256": text(_SHA256_HEADER), "rpm:module": text(_MODULE)}
    return Package(
        kind="rpm",
        name=text(_NAME),
        version="-".join(filter(None, (text(_VERSION), text(_RELEASE)))),
        places=(path,),
        namespace=files.distribution.id,
        qualifiers=tuple((key, value) for key, value in qualifiers.items() if value),
        licences=(text(_LICENCE),) if text(_LICENCE) else (),
        supplier=text(_VENDOR) or text(_PACKAGER),
        homepage=text(_URL),
        summary=text(_SUMMARY).partition("\n")[0],
        notes=tuple((key, value) for key, value in notes.items() if value),
    )
