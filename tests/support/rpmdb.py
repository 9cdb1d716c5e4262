"""Databases of rpm, made without rpm: headers of packages, in SQLite or in ndb."""

import sqlite3
import struct
from collections.abc import Mapping
from pathlib import Path

TAGS = {
    "name": 1000,
    "version": 1001,
    "release": 1002,
    "epoch": 1003,
    "summary": 1004,
    "vendor": 1011,
    "license": 1014,
    "url": 1020,
    "arch": 1022,
    "sourcerpm": 1044,
}


def header(**values: str | int) -> bytes:
    """Return the header of a package as rpm keeps it: an index, and the store it points into."""
    index, store = b"", b""
    for name, value in values.items():
        if isinstance(value, int):
            store += b"\0" * (-len(store) % 4)
            index += struct.pack(">IIiI", TAGS[name], 4, len(store), 1)
            store += struct.pack(">I", value)
        else:
            index += struct.pack(">IIiI", TAGS[name], 9 if name == "summary" else 6, len(store), 1)
            store += value.encode() + b"\0"
    return struct.pack(">II", len(values), len(store)) + index + store


def write_sqlite(path: Path, packages: list[Mapping[str, str | int]]) -> None:
    """Write a database as `rpm` 4.16 and later do, in the journal's mode that they choose."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
    connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(header(**one),) for one in packages])
    connection.commit()
    connection.close()


def write_ndb(path: Path, packages: list[Mapping[str, str | int]]) -> None:
    """Write a database as SUSE's rpm does: a page of slots, then packages in blocks of 16 bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    slots, blobs = b"", b""
    for number, one in enumerate(packages, 1):
        data = header(**one)
        blob = struct.pack("<4sIII", b"BlbS", number, 1, len(data)) + data
        blob += b"\0" * (-len(blob) % 16)
        slots += struct.pack("<4sIII", b"Slot", number, (4096 + len(blobs)) // 16, len(blob) // 16)
        blobs += blob
    free = struct.pack("<4sIII", b"Slot", 0, 0, 0)
    page = struct.pack("<4sIII16x", b"RpmP", 0, 1, 1) + slots
    path.write_bytes(page + free * ((4096 - len(page)) // 16) + blobs)
