"""What keys were made of, beside the cache records: to explain a miss, and never to decide about a hit.

An account goes with its record when that is pruned. Steps are found again by an identity of their instruction.
Accounts and listings are opaque bytes here; with their key and identity they can be taken elsewhere.
"""

import time
import zlib

from pybuild.store.index import Index

ACCOUNT, LISTING, STEP = KINDS = "account", "listing", "step"
"""Kinds of rows in the table of remembered results."""

MAX_KEYS = 6
"""Most keys that are known of one identity, the newest ones; accounts of older ones go."""

MAX_SIZE = 4 << 20
"""Most bytes of a listing or account when unpacked."""

_PUT = "INSERT OR REPLACE INTO memo (kind, key, value, created) VALUES (?, ?, ?, ?)"


class Accounts:
    """The accounts of a store. Every method may be called from several threads."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def put(self, key: str, identity: str, account: bytes, listing: bytes | None = None) -> None:
        """Keep the account of a cache key, and the listing of the files it was made of."""
        now = time.time()
        with self._index.writing() as transaction:
            row = transaction.execute("SELECT value FROM memo WHERE kind = ? AND key = ?", (STEP, identity)).fetchone()
            keys = [key, *(known for known in (row[0].decode().split() if row else ()) if known != key)]
            transaction.execute(_PUT, (STEP, identity, " ".join(keys[:MAX_KEYS]).encode(), now))
            for old in keys[MAX_KEYS:]:
                transaction.execute("DELETE FROM memo WHERE kind IN (?, ?) AND key = ?", (ACCOUNT, LISTING, old))
            transaction.execute(_PUT, (ACCOUNT, key, zlib.compress(account, 1), now))
            if listing is not None:
                transaction.execute(_PUT, (LISTING, key, zlib.compress(listing, 1), now))

    def keys(self, identity: str) -> list[str]:
        """Return the keys that steps of this identity had, the newest first."""
        row = self._index.row("SELECT value FROM memo WHERE kind = ? AND key = ?", (STEP, identity))
        return bytes(row[0]).decode().split() if row else []

    def account(self, key: str) -> tuple[bytes, float] | None:
        """Return the account of a key and when it was made (seconds since the epoch)."""
        row = self._index.row("SELECT value, created FROM memo WHERE kind = ? AND key = ?", (ACCOUNT, key))
        data = _unpacked(row[0]) if row else None
        return None if row is None or data is None else (data, row[1])

    def listing(self, key: str) -> bytes | None:
        """Return the listing of a key."""
        row = self._index.row("SELECT value FROM memo WHERE kind = ? AND key = ?", (LISTING, key))
        return _unpacked(row[0]) if row else None

    def tidy(self) -> None:
        """Forget what belongs to cache records that are gone."""
        with self._index.writing() as transaction:
            transaction.execute(
                "DELETE FROM memo WHERE kind IN (?, ?) AND key NOT IN (SELECT key FROM cache)", (ACCOUNT, LISTING)
            )
            known = {key for (key,) in transaction.execute("SELECT key FROM memo WHERE kind = ?", (ACCOUNT,))}
            steps = transaction.execute("SELECT key, value FROM memo WHERE kind = ?", (STEP,)).fetchall()
            gone = [(STEP, identity) for identity, keys in steps if known.isdisjoint(keys.decode().split())]
            transaction.executemany("DELETE FROM memo WHERE kind = ? AND key = ?", gone)


def _unpacked(data: bytes) -> bytes | None:
    """Return what was packed; None for anything else: an account is no reason to fail."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, MAX_SIZE)
    except zlib.error:
        return None
    return text if unpacker.eof else None
