"""What COPY and ADD select from a source tree and where it lands, decided on tables of contents.

The rules are those of language reference "COPY" (source, destination, --chown, --chmod) as BuildKit executes
them; nothing here reads a byte of content.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from pybuild.tree.entry import BLOCK, CHAR, DIR, FILE, HARDLINK, SYMLINK, Entry
from pybuild.tree.matching import Choice, Matching, walk_chosen
from pybuild.tree.merged import Tree, ancestors, join, parent_of
from pybuild.tree.paths import Place, TreeError, clean, glob, has_wildcard, resolve

EVERYTHING = Choice()


class SourceNotFoundError(TreeError):
    """A COPY source that is not in the tree; `source` is the text of the instruction."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"not found: {source}",
            "check the spelling and that no .dockerignore pattern excludes it",
        )
        self.source = source


class PlacementError(TreeError):
    """A destination that cannot take what is copied there."""


class Selected(msgspec.Struct, frozen=True):
    """One match of one source: `name` is what it is called when put into a directory.

    `entries` begins with the match itself; for a directory its content follows. `content` is given for
    a heredoc, which lies in no tree. `holders` are paths of directories that are copied only to hold others:
    one that is at the destination already keeps its owner. `implied` are directories of an archive that it does not
    describe: one that is at the destination stays as it is, and a link to one is followed inside of the destination.
    """

    name: bytes
    root: bytes
    entries: tuple[Entry, ...]
    content: bytes | None = None
    holders: frozenset[bytes] = frozenset()
    implied: frozenset[bytes] = frozenset()

    @property
    def is_dir(self) -> bool:
        """Is the match a directory, whose content is copied rather than itself?"""
        return self.entries[0].type == DIR


class Placed(msgspec.Struct, frozen=True):
    """An entry of the new layer, and where its content comes from: a path of the source tree or bytes."""

    entry: Entry
    source: bytes | None = None
    content: bytes | None = None


class Metadata(msgspec.Struct, frozen=True):
    """What the flags say of owners and modes.

    `owner` replaces every owner. `chmod` maps (old mode, is directory) to the new mode.
    `keep_xattrs` holds for sources in an image. With `replace` whatever is in the way makes room, as it does
    for an archive that ADD unpacks. `made_mtime` (ns) is the time of directories that had to be made, `mtime` that of
    all that is copied, unless it keeps its own.
    """

    owner: tuple[int, int] | None = None
    chmod: Callable[[int, bool], int] | None = None
    keep_xattrs: bool = False
    replace: bool = False
    made_mtime: int = 0
    mtime: int | None = None


class _Layer(msgspec.Struct):
    """The layer being put together, over the tree below it."""

    below: Place
    metadata: Metadata
    placed: dict[bytes, Placed] = msgspec.field(default_factory=dict)
    names: dict[tuple[int, bytes], list[bytes]] = msgspec.field(default_factory=dict)
    """Destinations of each source file that has several names, by selection and the name that others link to."""

    def get(self, path: bytes) -> Entry | None:
        placed = self.placed.get(path)
        return placed.entry if placed else self.below.get(path)


def heredoc(name: str, content: bytes) -> Selected:
    """Return the selection for a heredoc used as a source: mode 0644, owner 0:0."""
    encoded = name.encode(errors="surrogateescape")
    digest = hashlib.sha256(content).digest()
    entry = Entry(path=encoded, type=FILE, mode=0o644, size=len(content), digest=digest)
    return Selected(encoded, encoded, (entry,), content)


def select(tree: Tree, source: str, choice: Choice = EVERYTHING) -> list[Selected]:
    """Return what `source` matches, in order, and of each directory what is chosen.

    What a wildcard finds may be left out by its own name, what is named plainly may not. Raises
    SourceNotFoundError for a plain source that is absent; a wildcard may match nothing.
    """
    pattern = source.encode(errors="surrogateescape")
    if not has_wildcard(pattern):
        return [_select_one(tree, resolve(tree, pattern), clean(pattern), source, choice)]
    matches: list[Selected] = []
    for path in glob(tree, pattern):
        if choice.leaves_out(path.rpartition(b"/")[2]):
            continue
        entry = tree.get(path)
        target = path
        if entry is not None and entry.type == SYMLINK:
            # A link that a wildcard hits stays a link, unless it leads to a directory
            followed = resolve(tree, path)
            led_to = tree.get(followed)
            if led_to is not None and led_to.type == DIR:
                target = followed
        matches.append(_select_one(tree, target, path, source, choice))
    return matches


def select_with_parents(
    tree: Tree, source: str, matching: Callable[[str], Matching], exclude: Matching | None
) -> list[Selected]:
    """Return what `source` of a COPY --parents matches: directories, of which only a part is chosen.

    The part is named after the first `/./`, else by the whole of `source`; `matching` reads it as a pattern. Raises
    SourceNotFoundError for a plain source that is absent, TreeError for one that is reached by a link alone.
    """
    top, pivot, below = source.partition("/./")
    if not pivot:
        top, below = "/", source
    inner = clean(below.encode(errors="surrogateescape"))
    include = matching(inner.decode(errors="surrogateescape")) if inner else None
    selections = select(tree, top or "/", Choice(include, exclude))
    if not has_wildcard(source.encode(errors="surrogateescape")):
        path = join(selections[0].root, inner)
        if tree.get(resolve(tree, path)) is None:
            raise SourceNotFoundError(source)
        if resolve(tree, path, follow_last=False) != path:
            raise TreeError(f"--parents does not follow a link on the way: {source}", "name the directory it leads to")
    return selections


def select_plain(tree: Tree, source: str, choice: Choice = EVERYTHING) -> Selected:
    """Return what is at `source`, whose characters all mean themselves; raise SourceNotFoundError."""
    path = source.encode(errors="surrogateescape")
    return _select_one(tree, resolve(tree, path), clean(path), source or "/", choice)


def _select_one(tree: Tree, path: bytes, named: bytes, source: str, choice: Choice) -> Selected:
    entry = tree.get(path)
    if entry is None:
        raise SourceNotFoundError(source)
    holders: frozenset[bytes] = frozenset()
    entries: tuple[Entry, ...] = (entry,)
    if entry.type == DIR and choice == EVERYTHING:
        entries = tuple(tree.walk(path))
    elif entry.type == DIR:
        entries, holders = walk_chosen(tree, path, choice)
    return Selected(named.rpartition(b"/")[2], path, entries, holders=holders)


def with_hard_links(selected: Selected, same: Mapping[bytes, object]) -> Selected:
    """Return a directory with the further names of each file as hard links; `same` tells, by path, which file it is."""
    first_names: dict[object, bytes] = {}
    entries: list[Entry] = []
    for entry in selected.entries:
        file = same.get(entry.path) if entry.type == FILE else None
        first = entry.path if file is None else first_names.setdefault(file, entry.path)
        entries.append(entry if first == entry.path else msgspec.structs.replace(entry, type=HARDLINK, link=first))
    return msgspec.structs.replace(selected, entries=tuple(entries))


def content_key(selections: Iterable[Selected], digest: Callable[[bytes], bytes]) -> bytes:
    """Return a digest of all that the selections say, without any time in it.

    `digest` gives the content digest of a file of the source tree that its entry does not carry.
    """
    state = hashlib.sha256()
    for selected in selections:
        skip = len(selected.root)
        state.update(b"S%d:%s" % (len(selected.name), selected.name))
        rows: list[bytes] = []
        for entry in selected.entries:
            data = entry.digest
            if not data and entry.type in (FILE, HARDLINK):
                data = digest(entry.path)
            link = entry.link if entry.type == SYMLINK else b""
            kind = FILE if entry.type == HARDLINK else entry.type
            relative = entry.path[skip:]
            rows.append(
                b"%d:%s%s%o,%d,%d,%d:%s%s"
                % (len(relative), relative, kind.encode(), entry.mode, entry.uid, entry.gid, len(link), link, data)
            )
            if entry.xattrs:
                rows.extend(b"X%d:%s%d:%s" % (len(k), k, len(v), v) for k, v in sorted(entry.xattrs.items()))
            if entry.type in (CHAR, BLOCK):
                rows.append(b"D%d,%d" % entry.rdev)
        state.update(b"\n".join(rows))
    return state.digest()


def place(selections: Sequence[Selected], below: Place, dest: str, metadata: Metadata) -> list[Placed]:
    """Return the entries of the layer that COPY makes, in tar order: parents first, bytes sorted.

    `dest` is absolute; a trailing slash means a directory. Raises PlacementError for a file onto a
    directory and the other way round.
    """
    layer = _Layer(below, metadata)
    encoded = dest.encode(errors="surrogateescape")
    into = encoded.endswith((b"/", b"/."))
    target = resolve(below, encoded)
    for number, selected in enumerate(selections):
        if selected.is_dir:
            _make_directory(layer, target)
            _place_tree(layer, number, selected, target)
            continue
        existing = layer.get(target)
        path = join(target, selected.name) if into or (existing is not None and existing.type == DIR) else target
        _make_directory(layer, parent_of(path))
        _place_entry(layer, selected.entries[0], path, selected.content)
    ordered = _in_tar_order(layer.placed)
    return _link_names(ordered, layer.names.values()) if layer.names else ordered


def directory_entries(below: Tree, path: bytes, owner: tuple[int, int], mtime: int) -> list[Placed]:
    """Return the entries that make directory `path` with its parents, nothing when it is there (WORKDIR).

    Raises PlacementError when something else than a directory is in the way.
    """
    target = resolve(below, path)
    layer = _Layer(below, Metadata(owner=owner, made_mtime=mtime))
    existing = below.get(target)
    if existing is not None and existing.type == DIR:
        return []
    _make_directory(layer, target)
    return _in_tar_order(layer.placed)


def keep_parents(layer_paths: Iterable[bytes], below: Tree) -> list[Entry]:
    """Return entries for the existing directories above `layer_paths`, so that the layer stands alone."""
    wanted = {above for path in layer_paths for above in ancestors(path)}
    found = (below.get(path) for path in sorted(wanted))
    return [entry for entry in found if entry is not None and entry.type == DIR]


def _make_directory(layer: _Layer, path: bytes, owner: tuple[int, int] | None = None) -> None:
    """Make `path` and what is missing above it, as the copy's owner's or `owner`'s; existing ones are repeated."""
    for directory in (*ancestors(path), path):
        if not directory or directory in layer.placed:
            placed = layer.placed.get(directory)
            if placed is not None and placed.entry.type != DIR:
                raise PlacementError(f"cannot copy into a non-directory: /{_text(directory)}")
            continue
        existing = layer.below.get(directory)
        if existing is None:
            uid, gid = owner or layer.metadata.owner or (0, 0)
            made = Entry(path=directory, type=DIR, mode=0o755, uid=uid, gid=gid, mtime=layer.metadata.made_mtime)
            layer.placed[directory] = Placed(made)
        elif existing.type == DIR:
            layer.placed[directory] = Placed(_bare_directory(existing, directory))
        elif layer.metadata.replace and directory != path:
            layer.placed[directory] = Placed(Entry(path=directory, type=DIR, mode=0o755, opaque=True))
        else:
            raise PlacementError(f"cannot copy into a non-directory: /{_text(directory)}")


def _place_tree(layer: _Layer, number: int, selected: Selected, target: bytes) -> None:
    first_names = {entry.link for entry in selected.entries if entry.type == HARDLINK}
    # Where each directory lies: not below its parent when a link led elsewhere
    places = {selected.root: target}
    for entry in selected.entries[1:]:
        parent, _, name = entry.path.rpartition(b"/")
        path = join(places[parent], name)
        if entry.path in selected.implied:
            places[entry.path] = _place_implied(layer, target, path)
            continue
        if entry.type == DIR:
            places[entry.path] = path
        existing = layer.get(path) if entry.path in selected.holders else None
        if existing is not None and existing.type == DIR:
            kept = msgspec.structs.replace(_bare_directory(existing, path), mode=entry.mode)
            layer.placed[path] = Placed(kept)
            continue
        _place_entry(layer, entry, path, None)
        if entry.type == HARDLINK:
            layer.names.setdefault((number, entry.link), []).append(path)
        elif entry.path in first_names:
            layer.names.setdefault((number, entry.path), []).append(path)


def _place_implied(layer: _Layer, root: bytes, path: bytes) -> bytes:
    """Make a directory that an archive implies unless it is there; return where, as links lead inside of `root`."""
    skip = len(root) + 1 if root else 0
    place = join(root, resolve(_Below(layer, root), path[skip:]))
    existing = layer.get(place)
    if existing is not None and existing.type != DIR:
        layer.placed[place] = Placed(Entry(path=place, type=DIR, mode=0o755, opaque=True))
    _make_directory(layer, place, (0, 0))
    return place


class _Below:
    """A layer being put together as seen from one of its directories."""

    def __init__(self, layer: _Layer, root: bytes) -> None:
        self._layer, self._root = layer, root

    def get(self, path: bytes) -> Entry | None:
        return self._layer.get(join(self._root, path))


def _link_names(ordered: list[Placed], groups: Iterable[list[bytes]]) -> list[Placed]:
    """Make the copies of one source file one file again: the first in tar order, the others link to it."""
    position = {item.entry.path: index for index, item in enumerate(ordered)}
    linked = list(ordered)
    for group in groups:
        indexes = sorted({position[path] for path in group if path in position})
        first = ordered[indexes[0]].entry
        for index in indexes[1:]:
            entry = ordered[index].entry
            # A layer above may have given one of the names other content; in a context not all is read yet
            same = entry.digest == first.digest or not (entry.digest and first.digest)
            if same and entry.type == first.type == FILE:
                link = msgspec.structs.replace(entry, type=HARDLINK, link=first.path)
                linked[index] = Placed(link)
    return linked


def _place_entry(layer: _Layer, entry: Entry, path: bytes, content: bytes | None) -> None:
    existing = layer.get(path)
    if existing is not None and (existing.type == DIR) != (entry.type == DIR) and not layer.metadata.replace:
        if existing.type == DIR:
            raise PlacementError(f"cannot replace a directory with a file: /{_text(path)}")
        raise PlacementError(f"cannot replace a non-directory with a directory: /{_text(path)}")
    if not path:
        raise PlacementError("cannot replace the root directory with a file: /")
    metadata = layer.metadata
    uid, gid = metadata.owner or (entry.uid, entry.gid)
    mode = entry.mode
    if metadata.chmod is not None and entry.type != SYMLINK:
        mode = metadata.chmod(mode, entry.type == DIR)
    copied = Entry(
        path=path,
        # The copy is a file of its own: the other name may not be part of the layer
        type=FILE if entry.type == HARDLINK else entry.type,
        mode=mode,
        uid=uid,
        gid=gid,
        size=entry.size,
        mtime=entry.mtime if metadata.mtime is None else metadata.mtime,
        link=entry.link if entry.type == SYMLINK else b"",
        digest=entry.digest,
        rdev=entry.rdev,
        xattrs=entry.xattrs if metadata.keep_xattrs else {},
        # Nothing of what was below the file that makes room, in older layers, may show through
        opaque=existing is not None and entry.type == DIR != existing.type,
    )
    source = entry.path if copied.type == FILE and content is None else None
    layer.placed[path] = Placed(copied, source, content)


def _bare_directory(entry: Entry, path: bytes) -> Entry:
    return Entry(
        path=path,
        type=DIR,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        xattrs=entry.xattrs,
    )


def _in_tar_order(placed: dict[bytes, Placed]) -> list[Placed]:
    # "a/b" sorts before "a-b" as a tree does, so that a directory's content follows it at once
    return [placed[path] for path in sorted(placed, key=lambda path: path.split(b"/"))]


def _text(path: bytes) -> str:
    return path.decode(errors="replace")
