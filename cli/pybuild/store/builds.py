"""What was built: a small file for each of the last builds, with why each step was, or was not, cached.

Files and not rows of the index: a build that is all cached writes one, and must not make SQLite write its log back.
"""

import os
import time
from pathlib import Path

from pybuild.store.errors import disk_error
from pybuild.store.place import Place

MOST = 64
"""How many builds are remembered."""

MAX_SIZE = 8 << 20
"""Largest record that is read, in bytes."""

_SUFFIX = ".json"


class Builds:
    """The records of a store, as opaque bytes. A record's file is named by time, id and project."""

    def __init__(self, place: Place) -> None:
        self._directory = place.builds
        self._temporary = place.temporary

    def put(self, record: bytes, identity: str, project: str) -> None:
        """Keep the record of a build that just ended; the oldest beyond MOST go. `project` are hex digits."""
        name = f"{time.time_ns():020d}-{identity}-{project}{_SUFFIX}"
        temporary = self._temporary()
        try:
            temporary.write_bytes(record)
            try:
                temporary.replace(self._directory / name)
            except FileNotFoundError:
                # A store of an earlier version lacks the directory
                self._directory.mkdir(mode=0o700, exist_ok=True)
                temporary.replace(self._directory / name)
            for old in self._names()[MOST:]:
                (self._directory / old).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error("cannot write the record of the build", self._directory, error) from error

    def identities(self, project: str = "") -> list[str]:
        """Return the ids of the builds, of one project or all, the newest first."""
        found = [name.removesuffix(_SUFFIX).split("-") for name in self._names()]
        return [parts[1] for parts in found if len(parts) == 3 and project in ("", parts[2])]

    def get(self, identity: str) -> bytes | None:
        """Return a record by the whole of its id; None when it is not there."""
        for name in self._names():
            if name.split("-")[1:2] == [identity]:
                try:
                    with (self._directory / name).open("rb") as file:
                        return file.read(MAX_SIZE)
                except FileNotFoundError:
                    return None
        return None

    def paths(self) -> list[Path]:
        """Return the files of all records, the newest first."""
        return [self._directory / name for name in self._names()]

    def _names(self) -> list[str]:
        try:
            return sorted([name for name in os.listdir(self._directory) if name.endswith(_SUFFIX)], reverse=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise disk_error("cannot read", self._directory, error) from error


def new_identity() -> str:
    """Return an id for a build: eight hex digits."""
    return os.urandom(4).hex()
