"""Results of steps by cache key."""

import time
from dataclasses import dataclass
from threading import Lock

from pybuild.oci.digest import Digest
from pybuild.store.index import Index


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """What a step gave: a layer, or None when it changed nothing. `created` is in seconds since the epoch."""

    diff_id: Digest | None
    size: int
    created: float
    description: str


class Cache:
    """The cache records of a store. Uses are noted in memory and written by `flush`: a hit writes nothing."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._used: set[str] = set()
        self._lock = Lock()

    def get(self, key: str) -> CacheRecord | None:
        """Return the record and count it as used now."""
        rows = self._index.rows("SELECT diff_id, size, created, description FROM cache WHERE key = ?", key)
        if not rows:
            return None
        diff_id, size, created, description = rows[0]
        with self._lock:
            self._used.add(key)
        return CacheRecord(
            Digest(str(diff_id)) if diff_id else None, int(str(size)), float(str(created)), str(description)
        )

    def put(self, key: str, record: CacheRecord) -> None:
        """Note a result; the newest of several wins."""
        self._index.run(
            (
                "INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?, ?, ?)",
                (key, record.diff_id, record.size, record.created, time.time(), record.description),
            )
        )

    def flush(self) -> None:
        """Write which records were used."""
        with self._lock:
            used, self._used = self._used, set()
        if used:
            now = time.time()
            self._index.run(*(("UPDATE cache SET used = ? WHERE key = ?", (now, key)) for key in used))
