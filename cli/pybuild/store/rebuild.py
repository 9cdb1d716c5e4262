"""A damaged index made again: from what the old database still answers, and from the files beside it."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import msgspec

from pybuild.oci.digest import Digest, digest_of
from pybuild.oci.image import MAX_DOCUMENT, ImageConfig, decode
from pybuild.store.absent import Absent
from pybuild.store.images import looks_like_config
from pybuild.store.index import TABLES, Index, damaged_mark
from pybuild.store.place import Place
from pybuild.tree.entry import FILE, HARDLINK, decode_toc

_COLUMNS = {
    table: [column.split()[0] for column in columns if not column.startswith("PRIMARY KEY")]
    for table, columns in TABLES.items()
}


def rebuild(place: Place) -> str:
    """Move the damaged index aside, make a new one, and return a sentence for the user. Needs the store alone.

    Nothing taken over is believed: blobs and tables are checked by digest when they are first used, snapshots count as
    absent. Images are found by their configs when the old database has lost them; their names are lost then.
    """
    aside = place.root / f"index.damaged-{time.time_ns()}.sqlite"
    for suffix in ("", "-wal", "-shm"):
        old = place.index.with_name(place.index.name + suffix)
        if old.exists():
            old.rename(aside.with_name(aside.name + suffix))
    index = Index(place.index)
    try:
        index.create()
        _salvage(aside, index)
        _layers_from_files(place, index)
        images = _images_from_files(place, index)
    finally:
        index.close()
    damaged_mark(place.index).unlink(missing_ok=True)
    return (
        f"the index of the store was damaged and made again, {images} images were found; names and cache may be "
        f"lost, the damaged file is kept as {aside.name}"
    )


def _salvage(aside: Path, index: Index) -> None:
    """Copy the rows that can still be read."""
    try:
        old = sqlite3.connect(aside, isolation_level=None)
    except sqlite3.Error:
        return
    with closing(old):
        for table, columns in _COLUMNS.items():
            if table == "snapshots":
                continue
            rows = _readable(old, f"SELECT {', '.join(columns)} FROM {table}")
            if table in ("blobs", "layers"):
                at, durable = columns.index("boot"), columns.index("durable")
                rows = [tuple("" if i == at else 0 if i == durable else v for i, v in enumerate(row)) for row in rows]
            marks = ", ".join("?" * len(columns))
            with index.writing() as transaction:
                transaction.executemany(f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def _readable(old: sqlite3.Connection, sql: str) -> list[tuple[object, ...]]:
    """Return rows up to the first that cannot be read."""
    rows: list[tuple[object, ...]] = []
    try:
        for row in old.execute(sql):
            rows.append(row)  # noqa: PERF402  what came before the error counts
    except sqlite3.Error:
        return rows
    return rows


def _layers_from_files(place: Place, index: Index) -> None:
    known = {row[0] for row in index.rows("SELECT diff_id FROM layers")}
    for path in place.tocs.iterdir():
        diff_id = f"sha256:{path.name}"
        blob = place.blobs / path.name
        if diff_id in known or not blob.exists():
            continue
        data = path.read_bytes()
        try:
            toc = decode_toc(data)
        except msgspec.DecodeError:
            continue
        size = blob.stat().st_size
        if any(entry.type in (FILE, HARDLINK) and entry.offset + entry.size > size for entry in toc):
            # One of the two is cut off; as long as the row is absent, so is the layer
            continue
        index.write(
            "INSERT OR IGNORE INTO layers (diff_id, size, toc_digest, toc_size, boot, durable, created)"
            " VALUES (?, ?, ?, ?, '', 0, ?)",
            (diff_id, size, digest_of(data), len(data), path.stat().st_mtime),
        )


def _images_from_files(place: Place, index: Index) -> int:
    sizes = {row[0]: row[1] for row in index.rows("SELECT diff_id, size FROM layers")}
    absent = Absent(place)
    for path in place.blobs.iterdir():
        if path.stat().st_size > MAX_DOCUMENT:
            continue
        data = path.read_bytes()
        if digest_of(data)[7:] != path.name or not looks_like_config(data):
            continue
        config = decode(data, ImageConfig)
        for diff_id in config.rootfs.diff_ids:
            elsewhere = absent.get(diff_id) if diff_id not in sizes else None
            if elsewhere is not None:
                sizes[diff_id] = elsewhere.descriptor.size
        if all(diff_id in sizes for diff_id in config.rootfs.diff_ids):
            size = sum(sizes[diff_id] for diff_id in config.rootfs.diff_ids)
            index.write(
                "INSERT OR IGNORE INTO images (id, config, size, created) VALUES (?, ?, ?, ?)",
                (Digest(f"sha256:{path.name}"), data, size, path.stat().st_mtime),
            )
    _drop_broken_indexes(index)
    index.write("DELETE FROM tags WHERE image NOT IN (SELECT id FROM images UNION SELECT id FROM indexes)")
    found = index.row("SELECT count(*) FROM images")
    return int(found[0]) if found else 0


def _drop_broken_indexes(index: Index) -> None:
    """Forget indexes that an image is missing of, or that are not what their id says."""
    known = {row[0] for row in index.rows("SELECT id FROM images")}
    for identity, data, images in index.rows("SELECT id, data, images FROM indexes"):
        try:
            sound = digest_of(data) == identity and set(json.loads(images)) <= known
        except (TypeError, ValueError):
            sound = False
        if not sound:
            index.write("DELETE FROM indexes WHERE id = ?", (identity,))
