"""COPY, ADD and WORKDIR: layers written from tables and content, without a tree or a sandbox.

A file that was never read is read once: it is hashed while it is packed, and the cache is asked afterwards.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import msgspec

from pybuild.dockerfile.modes import parse_chmod
from pybuild.engine.owners import owner_of
from pybuild.engine.sources import LayerSource, Source, archive_source, is_archive_head
from pybuild.engine.workers import Workers
from pybuild.errors import PybuildError
from pybuild.layer.tarwriter import Packed, TarWriter
from pybuild.plan.ops import CopyOp, Remote, RemoteFile, WorkdirOp
from pybuild.store.blobs import BlobWriter
from pybuild.store.store import Store
from pybuild.tree.copy import (
    Metadata,
    Placed,
    Selected,
    content_key,
    directory_entries,
    heredoc,
    place,
    select,
    select_plain,
    select_with_parents,
    with_hard_links,
)
from pybuild.tree.entry import DIR, FILE, HARDLINK, Entry
from pybuild.tree.matching import Choice, Matching
from pybuild.tree.merged import EmptyTree, Tree, ancestors
from pybuild.tree.paths import TreeError

READ_FIRST = 8 << 20
"""Unknown content of up to this many bytes is read for the key alone: a hit then writes nothing."""

NANOSECONDS = 1_000_000_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybuild.tree.listing import Listing


class Copying(msgspec.Struct):
    """One COPY or ADD in progress: what it selects, and from where.

    `also` are its remote sources, each on its own, with the number of `selections` that come before it.
    """

    op: CopyOp
    source: Source
    selections: list[Selected]
    progress: Callable[[int, int], None]
    epoch: int | None = None
    also: list[tuple["Copying", int]] = msgspec.field(default_factory=list)

    def unread(self) -> list[Entry]:
        """Return the selected files whose content digest nobody knows."""
        return [
            entry
            for selected in self.selections
            if selected.content is None
            for entry in selected.entries
            if entry.type in (FILE, HARDLINK) and not entry.digest and self.source.known_digest(entry.path) is None
        ]

    def small(self, unread: list[Entry]) -> bool:
        """Is it better to read `unread` before asking the cache than to pack at once?"""
        return sum(entry.size for entry in unread) <= READ_FIRST and len(unread) <= 200

    def content(self) -> bytes:
        """Return the digest of all that is selected; reads what is not known yet."""
        own = content_key(self.selections, self.source.digest)
        if not self.also:
            return own
        return hashlib.sha256(own + b"".join(other.content() for other, _ in self.also)).digest()

    def listing(self) -> "Listing":
        """Return what is selected, to tell later what changed."""
        from pybuild.tree.listing import listing, together

        own = listing(self.selections, self.source.digest)
        return together([own, *(other.listing() for other, _ in self.also)]) if self.also else own


def begin(
    op: CopyOp,
    source: Source,
    progress: Callable[[int, int], None],
    epoch: int | None,
    remotes: Sequence[tuple[Remote, Source]] = (),
) -> Copying:
    """Select the sources of `op`; raise SourceNotFoundError or TreeError for those that cannot be.

    `remotes` are those of `op`, each with what was fetched for it.
    """
    selections: list[Selected] = []
    exclude = _matching("--exclude", *op.excludes) if op.excludes else None
    counts = [0]
    for text in op.sources:
        if op.parents:
            selections += select_with_parents(source.tree, text, partial(_matching, "source"), exclude)
        else:
            selections += select(source.tree, text, Choice(exclude=exclude))
        counts.append(len(selections))
    selections += (heredoc(name, content) for name, content in op.inline)
    # Asked last: the context knows of those it has looked at
    if same := source.hard_links():
        selections = [with_hard_links(selected, same) if selected.is_dir else selected for selected in selections]
    also: list[tuple[Copying, int]] = []
    for (remote, fetched), preceding in zip(remotes, op.preceding, strict=True):
        unpack = isinstance(remote, RemoteFile) and remote.unpack
        own = msgspec.structs.replace(op, unpack=unpack)
        # A file is alone in its tree, under the name that it got
        path = fetched.tree.children(b"")[0].decode(errors="surrogateescape") if isinstance(remote, RemoteFile) else ""
        selected = select_plain(fetched.tree, path, Choice(exclude=exclude))
        also.append((Copying(own, fetched, [selected], progress, epoch), counts[preceding]))
    return Copying(op, source, selections, progress, epoch, also)


def _matching(what: str, *patterns: str) -> Matching:
    """Return what the patterns say of the root that is copied; raise TreeError for a malformed one."""
    # The same language as that of ignore files, and hardly ever needed
    from pybuild.context.errors import IgnoreError
    from pybuild.context.ignore import IgnoreMatcher

    try:
        return IgnoreMatcher(patterns).root
    except IgnoreError as error:
        raise TreeError(f"malformed pattern as {what}: {error.pattern or ' '.join(patterns)}", error.hint) from error


def pack(copying: Copying, image: LayerSource, store: Store, workers: Workers, blob: BlobWriter) -> Packed:
    """Write the layer of a COPY or ADD into `blob`.

    `image` are the layers below. Raises PlacementError and OwnerError for what does not fit them.
    """
    op = copying.op
    below = EmptyTree() if op.link else image.tree
    owner = owner_of(op.chown, None if op.link else image) if op.chown else None
    made = (copying.epoch or 0) * NANOSECONDS
    with ExitStack() as stack:
        written = _Written(below)
        for one in _in_order(copying):
            _put(one, written, owner, made, store, workers, stack)
        return _write(written, blob, copying.progress)


class _Written:
    """The image below with what earlier sources of the same instruction have put there: later ones land on that."""

    def __init__(self, below: Tree) -> None:
        self._below = below
        self.rows: dict[bytes, tuple[Placed, Source]] = {}
        self.parts = 0

    def get(self, path: bytes) -> Entry | None:
        """Return what is at a path."""
        if not self.rows:
            return self._below.get(path)
        row = self.rows.get(path)
        if row is not None:
            return row[0].entry
        above = (self.rows.get(directory) for directory in ancestors(path))
        hidden = any(row is not None and (row[0].entry.type != DIR or row[0].entry.opaque) for row in above)
        return None if hidden else self._below.get(path)

    def add(self, placed: list[Placed], source: Source) -> None:
        """Put something there; what takes the place of a directory takes it with all that is in it."""
        self.parts += 1
        for item in placed:
            path = item.entry.path
            before = self.rows.get(path)
            if before is not None and before[0].entry.type == DIR != item.entry.type:
                gone = [below for below in self.rows if below.startswith(path + b"/")]
                for below in gone:
                    del self.rows[below]
            if before is not None and before[0].entry.opaque and item.entry.type == DIR:
                item = msgspec.structs.replace(item, entry=msgspec.structs.replace(item.entry, opaque=True))
            self.rows[path] = (item, source)


def _in_order(copying: Copying) -> list[Copying]:
    """Return what is copied as the instruction has it, remote and local sources in turn: the last of a name stays."""
    if not copying.also:
        return [copying]
    found: list[Copying] = []
    done = 0
    for other, preceding in copying.also:
        if preceding > done:
            found.append(msgspec.structs.replace(copying, selections=copying.selections[done:preceding], also=[]))
            done = preceding
        found.append(other)
    if done < len(copying.selections):
        found.append(msgspec.structs.replace(copying, selections=copying.selections[done:], also=[]))
    return found


def _put(
    copying: Copying,
    written: _Written,
    owner: tuple[int, int] | None,
    made: int,
    store: Store,
    workers: Workers,
    stack: ExitStack,
) -> None:
    """Put what is selected of one source where it lands."""
    op = copying.op
    chmod = parse_chmod(op.chmod).apply if op.chmod else None
    metadata = Metadata(
        owner,
        chmod,
        keep_xattrs=isinstance(copying.source, LayerSource),
        made_mtime=made,
        # As BuildKit does, and so that the time of a checkout does not matter; archives keep their own times
        mtime=None if copying.epoch is None else made,
    )
    kept = Metadata(owner, None, keep_xattrs=True, replace=True, made_mtime=made)
    into = op.dest if op.dest.endswith("/") else op.dest + "/"
    parts = written.parts
    plain: list[Selected] = []
    for selected in copying.selections:
        archive = _open_archive(copying, selected, store, workers, stack) if op.unpack else None
        if archive is None:
            plain.append(selected)
            continue
        if plain:
            written.add(place(plain, written, op.dest, metadata), copying.source)
            plain = []
        entries = archive.tree.walk(b"")
        described = archive.tree.described()
        implied = frozenset(entry.path for entry in entries if entry.path not in described)
        unpacked = Selected(b"", b"", tuple(entries), implied=implied)
        written.add(place([unpacked], written, into, kept), archive)
    if plain or written.parts == parts:
        written.add(place(plain, written, op.dest, metadata), copying.source)


def pack_directory(op: WorkdirOp, image: LayerSource, epoch: int | None, blob: BlobWriter) -> Packed:
    """Write the layer that makes the directory of a WORKDIR, which is empty when it is there already."""
    owner = owner_of(op.user, image) if op.user else (0, 0)
    made = (epoch or 0) * NANOSECONDS
    placed = directory_entries(image.tree, op.path.encode(errors="surrogateescape"), owner, made)
    writer = TarWriter(blob.fd)
    for item in placed:
        writer.add(item.entry)
    return writer.finish()


def _open_archive(
    copying: Copying, selected: Selected, store: Store, workers: Workers, stack: ExitStack
) -> LayerSource | None:
    """Return the content of a selected file that is an archive, None for anything else."""
    entry = selected.entries[0]
    if selected.content is not None or entry.type not in (FILE, HARDLINK) or entry.size < 64:
        return None
    fd = copying.source.open(entry.path)
    try:
        head = os.pread(fd, 512, os.lseek(fd, 0, os.SEEK_CUR))
        if not is_archive_head(head):
            return None
        spool = stack.enter_context(store.blobs.create())
        try:
            packed = workers.ingest(fd, spool.fd, layer=False)
        except PybuildError:
            if head[257:262] == b"ustar":
                raise
            # A compressed file that holds no tar is copied as it is
            return None
    finally:
        copying.source.release(entry.path, fd, b"")
    return stack.enter_context(archive_source(spool.fd, packed.toc))


def _write(written: _Written, blob: BlobWriter, progress: Callable[[int, int], None]) -> Packed:
    rows = list(written.rows.values())
    if written.parts > 1:
        rows.sort(key=lambda row: row[0].entry.path.split(b"/"))
    total = sum(item.entry.size for item, _ in rows if item.source is not None)
    writer = TarWriter(blob.fd, threads=total > 64 << 20)
    done = 0
    for item, source in rows:
        entry = item.entry
        if item.source is None:
            writer.add(entry, item.content)
            continue
        fd = source.open(item.source)
        digest = b""
        try:
            writer.add(entry, fd)
            digest = writer.toc[-1].digest
        finally:
            source.release(item.source, fd, digest)
        done += entry.size
        if total > 1 << 20:
            progress(done, total)
    return writer.finish()
