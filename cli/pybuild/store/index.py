"""The index: an SQLite database in WAL mode, one connection a thread.

WAL with synchronous=NORMAL survives a killed process completely; a power failure may take the last transactions, but
never the order of them.
"""

import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pybuild.store.errors import DamagedIndexError, index_error

Row = tuple[Any, ...]

BUSY_SECONDS = 60.0
"""How long a writer waits for another one."""

TABLES = {
    "blobs": ("digest TEXT PRIMARY KEY", "size INTEGER", "boot TEXT", "durable INTEGER", "created REAL"),
    "layers": (
        "diff_id TEXT PRIMARY KEY",
        "size INTEGER",
        "toc_digest TEXT",
        "toc_size INTEGER",
        "boot TEXT",
        "durable INTEGER",
        "created REAL",
    ),
    "forms": (
        "diff_id TEXT",
        "media_type TEXT",
        "digest TEXT",
        "size INTEGER",
        "PRIMARY KEY (diff_id, media_type)",
    ),
    "images": ("id TEXT PRIMARY KEY", "config BLOB", "size INTEGER", "created REAL"),
    "indexes": ("id TEXT PRIMARY KEY", "data BLOB", "images TEXT", "created REAL"),
    "tags": ("name TEXT PRIMARY KEY", "image TEXT", "created REAL"),
    "cache": (
        "key TEXT PRIMARY KEY",
        "value TEXT",
        "diff_id TEXT",
        "size INTEGER",
        "description TEXT",
        "created REAL",
        "last_used REAL",
    ),
    "memo": ("kind TEXT", "key TEXT", "value BLOB", "created REAL", "PRIMARY KEY (kind, key)"),
    "snapshots": ("name TEXT PRIMARY KEY", "size INTEGER", "boot TEXT", "durable INTEGER", "created REAL"),
}


class Index:
    """The database below a store. Every method raises StoreError for what SQLite refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections of all threads; none may be in use."""
        with self._lock:
            connections, self._all = self._all, []
            self._local = threading.local()
        for connection in connections:
            connection.close()

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a SELECT."""
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def row(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """Return the first row of a SELECT."""
        try:
            found: Row | None = self._connection().execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return found

    def write(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement as a transaction of its own; return how many rows it changed."""
        try:
            return self._connection().execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            raise self._failed(error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing. Not to be nested."""
        connection = self._connection()
        try:
            # A transaction that reads first and writes later could not wait for another writer
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._failed(error) from error

    def create(self) -> None:
        """Make the tables that are absent. Only one process may do so at a time."""
        try:
            connection = self._connection()
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            for table, columns in TABLES.items():
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}) WITHOUT ROWID")
            connection.execute("CREATE INDEX IF NOT EXISTS tags_image ON tags (image)")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def check(self) -> None:
        """Read the first page; raise DamagedIndexError when it is no database of ours."""
        found = {name for (name,) in self.rows("SELECT name FROM sqlite_schema")}
        if not found >= TABLES.keys():
            raise DamagedIndexError(f"the index of the store lacks tables: {self.path}")

    def mark_damaged(self) -> None:
        """Tell the next one that opens the store."""
        damaged_mark(self.path).touch()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            return connection
        # close() comes from another thread than the one that opened
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        if sys.version_info >= (3, 12):
            # The last one to close would flush the log to the disk, which takes some 10 ms; the log may as well stay.
            # Before 3.12 this cannot be said. A store that was only read has an empty log and closes at once.
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        connection.execute("PRAGMA synchronous=NORMAL")
        with self._lock:
            self._all.append(connection)
        self._local.connection = connection
        return connection

    def _failed(self, error: sqlite3.Error) -> Exception:
        told = index_error(self.path, error)
        if isinstance(told, DamagedIndexError):
            self.mark_damaged()
        return told


def damaged_mark(path: Path) -> Path:
    """Return the file whose presence says that the index at `path` was found damaged."""
    return path.with_name(path.name + ".damaged")
