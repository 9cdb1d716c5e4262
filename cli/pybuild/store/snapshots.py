"""Unpacked trees. Their files may belong to mapped ids: removing them is the worker's work."""

import errno
import os
from pathlib import Path

from pybuild.store.errors import failed
from pybuild.store.temporary import temporary_name


class Snapshots:
    """The snapshots of a store: directories `NAME/fs` that appear whole, by rename."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tmp = root.parent / "tmp"

    def path(self, name: str) -> Path:
        """Return where the tree is or would be."""
        return self._root / name / "fs"

    def has(self, name: str) -> bool:
        """Is the tree there?"""
        return self.path(name).is_dir()

    def staging(self) -> Path:
        """Make and return a private directory for work in progress; it must hold the tree as `fs` when published."""
        path = self._tmp / (temporary_name() + ".d")
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise failed("write to the store", error) from error
        return path

    def publish(self, staging: Path, name: str) -> bool:
        """Make `staging` the snapshot `name`; False when there is one already and `staging` is left as it is."""
        try:
            os.rename(staging, self._root / name)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise failed("write to the store", error) from error
        return True

    def names(self) -> list[str]:
        """Return the names of all snapshots."""
        return sorted(item.name for item in self._root.iterdir())

    def trash(self, name: str) -> Path | None:
        """Take a snapshot away at once and return where its remains are, to be removed later."""
        target = self._tmp / (temporary_name() + ".d")
        try:
            os.rename(self._root / name, target)
        except FileNotFoundError:
            return None
        return target
