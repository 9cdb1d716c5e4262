"""Layers that images have and the store has not: what is known of them, and where they are to be had.

A small file for each, named by the diff_id, so that a lost index does not lose them. A layer that has come meanwhile
may still have one: whether it is here is asked first.
"""

import os
from collections.abc import Iterable

import msgspec

from pybuild.oci.digest import Digest, parse_digest
from pybuild.oci.image import Descriptor
from pybuild.store.errors import disk_error
from pybuild.store.place import Place

MAX_REPOSITORIES = 4
"""As many places of a layer are remembered."""


class AbsentLayer(msgspec.Struct, frozen=True):
    """A layer that is elsewhere: as it is there, and in which repositories (`registry/path`), the latest first."""

    descriptor: Descriptor
    repositories: tuple[str, ...]


class Absent:
    """The layers that a store knows to be elsewhere."""

    def __init__(self, place: Place) -> None:
        self._directory = place.absent
        self._temporary = place.temporary

    def put(self, diff_id: Digest, descriptor: Descriptor, repository: str) -> None:
        """Remember that a repository has a layer; raise StoreError."""
        known = self.get(diff_id)
        others = known.repositories if known is not None else ()
        repositories = (repository, *(one for one in others if one != repository))[:MAX_REPOSITORIES]
        data = msgspec.json.encode(AbsentLayer(descriptor, repositories))
        path = self._directory / parse_digest(diff_id)[7:]
        temporary = self._temporary()
        try:
            temporary.write_bytes(data)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error("cannot write down where a layer is", path, error) from error

    def get(self, diff_id: Digest) -> AbsentLayer | None:
        """Return what is known of a layer that is not here, None for nothing."""
        path = self._directory / parse_digest(diff_id)[7:]
        try:
            return msgspec.json.decode(path.read_bytes(), type=AbsentLayer)
        except (FileNotFoundError, msgspec.DecodeError):
            # A file that is cut off after a crash says nothing
            return None
        except OSError as error:
            raise disk_error("cannot read where a layer is", path, error) from error

    def list(self) -> "list[Digest]":
        """Return the diff_ids."""
        try:
            return [Digest(f"sha256:{name}") for name in sorted(os.listdir(self._directory))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise disk_error("cannot read", self._directory, error) from error

    def delete(self, diff_ids: Iterable[Digest]) -> None:
        """Forget layers."""
        for diff_id in diff_ids:
            (self._directory / parse_digest(diff_id)[7:]).unlink(missing_ok=True)
