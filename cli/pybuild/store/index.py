"""The store's sqlite index: what there is. Safe for several threads and processes at once."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import local

from pybuild.store.errors import StoreError

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, boot TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers (
    diff_id TEXT PRIMARY KEY, size INTEGER NOT NULL, complete INTEGER NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forms (
    diff_id TEXT NOT NULL, media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (diff_id, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, created REAL NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_layers (
    id TEXT NOT NULL, position INTEGER NOT NULL, diff_id TEXT NOT NULL, PRIMARY KEY (id, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (name TEXT PRIMARY KEY, id TEXT NOT NULL, set_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cache (
    key TEXT PRIMARY KEY, diff_id TEXT, size INTEGER NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    description TEXT NOT NULL
) WITHOUT ROWID;
"""


class Index:
    """Connections to the index, one for each thread that asks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = local()
        self._all: list[sqlite3.Connection] = []
        connection = self._connect()
        with self.guarded():
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"the store was made by a newer pybuild: {path.parent}", "update pybuild, or set PYBUILD_STORE"
                )
            if version < SCHEMA_VERSION:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self.guarded():
                # Used by its own thread; closed by whoever closes the store
                connection = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
            self._local.connection = connection
            self._all.append(connection)
        return connection

    def close(self) -> None:
        """Close every connection."""
        while self._all:
            self._all.pop().close()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn sqlite's errors into StoreError."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            hint = ""
            if "full" in text:
                hint = "free some space, or set PYBUILD_STORE to another disk"
            elif "readonly" in text or "unable to open" in text:
                hint = "set PYBUILD_STORE to a directory that can be written"
            raise StoreError(f"cannot use the store's index: {text}: {self._path}", hint) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"the store's index is damaged: {error}: {self._path}",
                f"move `{self._path.parent}` away; the next build makes a new store",
            ) from error

    def rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """Run a query and return all its rows."""
        with self.guarded():
            return self._connect().execute(sql, values).fetchall()

    def run(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        """Run statements as one transaction."""
        with self.guarded():
            connection = self._connect()
            if len(statements) == 1:
                connection.execute(*statements[0])
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    connection.execute(sql, values)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
