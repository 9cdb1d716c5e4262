"""The cache: what an op made the last time, by its key; and small results worth remembering."""

import time
from threading import Lock
from typing import Any

import msgspec

from pybuild.oci.digest import Digest
from pybuild.store.accounts import ACCOUNT, LISTING
from pybuild.store.index import Index

FRESH_SECONDS = 3600.0
"""A use is noted only when the last note is older: builds that are all cached then write nothing."""

BLOB = "blob"
"""Key in the value of a record that needs a blob besides its layer: its digest."""

_decoder = msgspec.json.Decoder(dict[str, Any])


class CacheRecord(msgspec.Struct, frozen=True):
    """What an op made: a layer, or nothing (`diff_id` None), and whatever else `value` says in JSON values.

    `size` in bytes; `created` and `last_used` in seconds since the epoch, `last_used` true to about an hour.
    `description` is for people.
    """

    diff_id: Digest | None
    size: int
    created: float
    description: str = ""
    value: dict[str, Any] = msgspec.field(default_factory=dict)
    last_used: float = 0.0


class Cache:
    """The records of a store. Every method may be called from several threads."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lock = Lock()
        self._fresh = FRESH_SECONDS
        self._used: dict[str, float] = {}

    def note_every_use(self) -> None:
        """Note each use exactly, as it takes to tell what was used least recently."""
        self._fresh = 0.0

    def get(self, key: str) -> CacheRecord | None:
        """Return the record of `key` and note, sooner or later, that it was used."""
        row = self._index.row(
            "SELECT value, diff_id, size, description, created, last_used FROM cache WHERE key = ?", (key,)
        )
        if row is None:
            return None
        now = time.time()
        if now - row[5] > self._fresh:
            with self._lock:
                self._used[key] = now
        return _record(row)

    def put(self, key: str, record: CacheRecord) -> None:
        """Keep a record, instead of an earlier one of that key."""
        self._index.write(
            "INSERT OR REPLACE INTO cache (key, value, diff_id, size, description, created, last_used)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                msgspec.json.encode(record.value).decode(),
                record.diff_id,
                record.size,
                record.description,
                record.created,
                record.last_used or time.time(),
            ),
        )

    def list(self) -> dict[str, CacheRecord]:
        """Return all records by key, the one used last first."""
        rows = self._index.rows(
            "SELECT key, value, diff_id, size, description, created, last_used FROM cache ORDER BY last_used DESC, key"
        )
        return {key: _record(tuple(rest)) for key, *rest in rows}

    def delete(self, key: str) -> None:
        """Remove a record, absent or not, and its account."""
        with self._index.writing() as transaction:
            transaction.execute("DELETE FROM cache WHERE key = ?", (key,))
            transaction.execute("DELETE FROM memo WHERE kind IN (?, ?) AND key = ?", (ACCOUNT, LISTING, key))

    def memo_get(self, kind: str, key: str) -> bytes | None:
        """Return what was remembered of `key` among results of this kind."""
        row = self._index.row("SELECT value FROM memo WHERE kind = ? AND key = ?", (kind, key))
        return bytes(row[0]) if row else None

    def memo_put(self, kind: str, key: str, value: bytes) -> None:
        """Remember a result until a prune of everything."""
        self._index.write(
            "INSERT OR REPLACE INTO memo (kind, key, value, created) VALUES (?, ?, ?, ?)",
            (kind, key, value, time.time()),
        )

    def memo_list(self, kind: str) -> dict[str, bytes]:
        """Return all that is remembered of this kind, by key."""
        rows = self._index.rows("SELECT key, value FROM memo WHERE kind = ? ORDER BY key", (kind,))
        return {key: bytes(value) for key, value in rows}

    def memo_clear(self) -> None:
        """Forget all remembered results."""
        self._index.write("DELETE FROM memo")

    def flush(self) -> None:
        """Write down the uses noted so far."""
        with self._lock:
            used, self._used = self._used, {}
        if used:
            with self._index.writing() as transaction:
                transaction.executemany(
                    "UPDATE cache SET last_used = MAX(last_used, ?) WHERE key = ?",
                    [(moment, key) for key, moment in used.items()],
                )


def _record(row: tuple[Any, ...]) -> CacheRecord:
    value, diff_id, size, description, created, last_used = row
    return CacheRecord(
        diff_id=Digest(diff_id) if diff_id is not None else None,
        size=size,
        created=created,
        description=description,
        value=_decoder.decode(value),
        last_used=last_used,
    )
