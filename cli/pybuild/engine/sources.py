"""Where COPY finds content: the build context, or layers of the store read in place by their tables."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pybuild.context.local import LocalContext
from pybuild.errors import PybuildError
from pybuild.oci.digest import Digest
from pybuild.store.store import Store
from pybuild.tree.entry import FILE, HARDLINK, Entry
from pybuild.tree.merged import MergedTree, Tree
from pybuild.tree.paths import resolve

READ_LIMIT = 1 << 20
"""Most bytes read of a file such as /etc/passwd: an image may hold anything under that name."""


class Source(Protocol):
    """A tree whose files can be read."""

    @property
    def tree(self) -> Tree:
        """Return the table of contents."""

    def hard_links(self) -> Mapping[bytes, object]:
        """Return which files of several names those are that the tree calls files: equal values are the same."""

    def known_digest(self, path: bytes) -> bytes | None:
        """Return the content digest of a file if it is known without reading it."""

    def digest(self, path: bytes) -> bytes:
        """Return the content digest of a file."""

    def open(self, path: bytes) -> int:
        """Return a descriptor at the beginning of the file's content; the caller calls `release` with it."""

    def release(self, path: bytes, fd: int, digest: bytes) -> None:
        """Take a descriptor back after the whole content was read and had `digest` (b"" unknown)."""


class ContextSource:
    """The build context, read in place."""

    def __init__(self, context: LocalContext) -> None:
        self._context = context

    @property
    def tree(self) -> Tree:
        """See Source."""
        return self._context

    def hard_links(self) -> Mapping[bytes, object]:
        """See Source."""
        return self._context.hard_links

    def known_digest(self, path: bytes) -> bytes | None:
        """See Source."""
        return self._context.known_digest(path)

    def digest(self, path: bytes) -> bytes:
        """See Source."""
        return self._context.digest(path)

    def open(self, path: bytes) -> int:
        """See Source."""
        return self._context.open(path)

    def release(self, path: bytes, fd: int, digest: bytes) -> None:
        """See Source."""
        try:
            if digest:
                self._context.confirm(path, fd, digest)
        finally:
            os.close(fd)


class LayerSource:
    """A stack of layers in the store, bottom first. Use it with `with`: it keeps their tars open.

    The tables are read when first asked for: a step found in the cache by its key needs none.
    """

    def __init__(self, open_layer: Callable[[int], int], tocs: Callable[[], Sequence[Sequence[Entry]]]) -> None:
        self._open_layer = open_layer
        self._tocs = tocs
        self._tree: MergedTree | None = None
        self._fds: dict[int, int] = {}

    def __enter__(self) -> "LayerSource":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    @property
    def tree(self) -> MergedTree:
        """See Source."""
        if self._tree is None:
            self._tree = MergedTree(self._tocs())
        return self._tree

    def hard_links(self) -> Mapping[bytes, object]:
        """See Source."""
        return {}

    def known_digest(self, path: bytes) -> bytes | None:
        """See Source."""
        entry = self.tree.get(path)
        return entry.digest or None if entry else None

    def digest(self, path: bytes) -> bytes:
        """See Source."""
        known = self.known_digest(path)
        if known is None:
            raise PybuildError(f"the layer's table lacks a digest: /{path.decode(errors='replace')}")
        return known

    def open(self, path: bytes) -> int:
        """See Source; the descriptor stays ours."""
        found = self.tree.locate(path)
        if found is None or found[1].type not in (FILE, HARDLINK):
            raise PybuildError(f"not a file in the image: /{path.decode(errors='replace')}")
        index, entry = found
        fd = self._fds.get(index)
        if fd is None:
            fd = self._fds[index] = self._open_layer(index)
        os.lseek(fd, max(entry.offset, 0), os.SEEK_SET)
        return fd

    def release(self, path: bytes, fd: int, digest: bytes) -> None:
        """See Source."""

    def read(self, path: bytes, limit: int = READ_LIMIT) -> bytes | None:
        """Return the content of a small regular file, links followed inside the image; None when absent.

        Raises PybuildError for one larger than `limit` bytes.
        """
        place = resolve(self.tree, path)
        entry = self.tree.get(place)
        if entry is None or entry.type not in (FILE, HARDLINK):
            return None
        if entry.size > limit:
            raise PybuildError(f"file of the image is over {limit} bytes: /{place.decode(errors='replace')}")
        if entry.size == 0:
            return b""
        return os.read(self.open(place), entry.size)


def stage_source(store: Store, diff_ids: Sequence[Digest]) -> LayerSource:
    """Return the content of the layers named."""
    return LayerSource(
        lambda index: store.blobs.open(diff_ids[index]),
        lambda: [store.layers.toc(diff_id) for diff_id in diff_ids],
    )


def archive_source(fd: int, toc: list[Entry]) -> LayerSource:
    """Return the content of an uncompressed archive that was indexed; `fd` stays the caller's."""
    return LayerSource(lambda _: os.dup(fd), lambda: [toc])


def is_archive_head(head: bytes) -> bool:
    """Does a file that begins with these 512 bytes look like a tar, plain or compressed?"""
    magics = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
    return head.startswith(magics) or head[257:262] == b"ustar"
