"""COPY's destination rules, decided on tables."""

import hashlib

import msgspec
import pytest

from pybuild.tree.copy import (
    Metadata,
    PlacementError,
    Selected,
    SourceNotFoundError,
    content_key,
    directory_entries,
    heredoc,
    place,
    select,
    with_hard_links,
)
from pybuild.tree.entry import DIR, FILE, HARDLINK, SYMLINK, Entry
from pybuild.tree.merged import EmptyTree, MergedTree, Tree


def tree(*rows: str, **fields: int) -> MergedTree:
    toc = []
    for row in rows:
        path, arrow, target = row.partition(" -> ")
        if arrow:
            toc.append(Entry(path=path.encode(), type=SYMLINK, mode=0o777, link=target.encode()))
        elif path.endswith("/"):
            toc.append(Entry(path=path[:-1].encode(), type=DIR, mode=0o700, **fields))
        else:
            digest = hashlib.sha256(path.encode()).digest()
            toc.append(Entry(path=path.encode(), type=FILE, mode=0o640, digest=digest, **fields))
    return MergedTree([toc])


CONTEXT = tree("file", "other", "dir/", "dir/a", "dir/sub/", "dir/sub/b", "link -> file", "dlink -> dir")


def copied(sources: list[str], dest: str, below: Tree | None = None, metadata: Metadata | None = None) -> list[str]:
    selections = [match for source in sources for match in select(CONTEXT, source)]
    placed = place(selections, below or EmptyTree(), dest, metadata or Metadata())
    return [item.entry.path.decode() for item in placed]


@pytest.mark.parametrize(
    ("sources", "dest", "expected"),
    [
        (["file"], "/x", ["x"]),
        (["file"], "/x/", ["x", "x/file"]),
        (["file"], "/new/deep/x", ["new", "new/deep", "new/deep/x"]),
        (["dir"], "/x", ["x", "x/a", "x/sub", "x/sub/b"]),
        (["dir/"], "/x/", ["x", "x/a", "x/sub", "x/sub/b"]),
        (["dir"], "/", ["a", "sub", "sub/b"]),
        (["file", "other"], "/x/", ["x", "x/file", "x/other"]),
        (["file", "other"], "/x", ["x"]),
        (["file", "dir"], "/x/", ["x", "x/a", "x/file", "x/sub", "x/sub/b"]),
        (["fi*"], "/x/", ["x", "x/file"]),
        (["nothing*"], "/x/", []),
        (["link"], "/x", ["x"]),
        (["dlink"], "/x", ["x", "x/a", "x/sub", "x/sub/b"]),
        (["dl*"], "/x/", ["x", "x/a", "x/sub", "x/sub/b"]),
        (["../file"], "/x", ["x"]),
        (["/file"], "/x", ["x"]),
    ],
)
def test_destination_rules(sources: list[str], dest: str, expected: list[str]) -> None:
    assert copied(sources, dest) == expected


def test_existing_directory_takes_the_file_in() -> None:
    assert copied(["file"], "/etc", tree("etc/")) == ["etc", "etc/file"]


def test_link_in_the_destination_is_followed_within_the_image() -> None:
    assert copied(["file"], "/lib/x", tree("usr/", "usr/lib/", "lib -> usr/lib")) == ["usr", "usr/lib", "usr/lib/x"]
    assert copied(["file"], "/lib", tree("usr/", "usr/lib/", "lib -> /usr/lib")) == ["usr", "usr/lib", "usr/lib/file"]


def test_wildcard_keeps_a_link_and_a_plain_name_follows_it() -> None:
    [followed] = place(select(CONTEXT, "link"), EmptyTree(), "/x", Metadata())
    assert followed.entry.type == FILE
    [kept] = place(select(CONTEXT, "lin?"), EmptyTree(), "/x", Metadata())
    assert (kept.entry.type, kept.entry.link) == (SYMLINK, b"file")


def test_made_directories_are_0755_and_existing_ones_keep_their_own() -> None:
    below = tree("x/", uid=7)
    by_path = {item.entry.path: item.entry for item in place(select(CONTEXT, "dir"), below, "/x/y", Metadata())}
    assert (by_path[b"x"].mode, by_path[b"x"].uid) == (0o700, 7)
    assert (by_path[b"x/y"].mode, by_path[b"x/y"].uid) == (0o755, 0)
    assert by_path[b"x/y/sub"].mode == 0o700


def test_chown_and_chmod_apply_to_all_that_is_copied() -> None:
    metadata = Metadata(owner=(5, 6), chmod=lambda mode, is_dir: 0o711)
    placed = place(select(CONTEXT, "dir"), EmptyTree(), "/n/x", metadata)
    assert {(item.entry.uid, item.entry.gid) for item in placed} == {(5, 6)}
    modes = {item.entry.path: item.entry.mode for item in placed}
    assert modes[b"n"] == 0o755
    assert modes[b"n/x/a"] == modes[b"n/x/sub"] == 0o711


@pytest.mark.parametrize(
    ("source", "dest", "below"),
    [
        ("file", "/x/y", ("x",)),
        ("dir", "/x", ("x",)),
        ("dir", "/", ("sub",)),
        ("dir", "/", ("a/",)),
        ("dir", "/", ("sub -> else",)),
    ],
)
def test_files_and_directories_do_not_replace_each_other(source: str, dest: str, below: tuple[str, ...]) -> None:
    with pytest.raises(PlacementError):
        copied([source], dest, tree(*below))


def test_file_replaces_a_link_found_below_a_copied_directory() -> None:
    assert copied(["dir"], "/", tree("a -> elsewhere")) == ["a", "sub", "sub/b"]


def test_absent_source_names_itself() -> None:
    with pytest.raises(SourceNotFoundError, match="nosuch"):
        select(CONTEXT, "nosuch")


def test_heredoc_lands_under_its_name() -> None:
    placed = place([heredoc("conf", b"x=1\n")], EmptyTree(), "/etc/", Metadata())
    assert [(item.entry.path, item.content) for item in placed] == [(b"etc", None), (b"etc/conf", b"x=1\n")]


def key_of(root: Tree, source: str) -> bytes:
    return content_key(select(root, source), lambda path: hashlib.sha256(path).digest())


def test_content_key_ignores_times_and_sees_all_else() -> None:
    base = key_of(tree("d/", "d/f", mtime=1), "d")
    assert key_of(tree("d/", "d/f", mtime=2), "d") == base
    assert key_of(tree("d/", "d/f", uid=1), "d") != base
    assert key_of(tree("d/", "d/g"), "d") != base
    assert key_of(tree("e/", "e/f"), "e") != base
    assert key_of(tree("d/", "d/f -> x"), "d") != base
    assert key_of(tree("d/", "d/f -> y"), "d") != key_of(tree("d/", "d/f -> x"), "d")


def test_working_directory_is_made_with_its_parents_once() -> None:
    placed = directory_entries(tree("app/"), b"/app/src/x", (3, 4), 0)
    assert [(item.entry.path, item.entry.uid) for item in placed] == [(b"app", 0), (b"app/src", 3), (b"app/src/x", 3)]
    assert directory_entries(tree("app/"), b"/app", (3, 4), 0) == []
    with pytest.raises(PlacementError):
        directory_entries(tree("app"), b"/app/x", (0, 0), 0)


def test_names_of_one_file_stay_one_file_in_the_copy() -> None:
    digest = b"d" * 32
    source = MergedTree(
        [
            [
                Entry(path=b"d", type=DIR),
                Entry(path=b"d/b", type=FILE, digest=digest, size=3),
                Entry(path=b"d/a", type="h", link=b"d/b", digest=digest, size=3),
                Entry(path=b"d/other", type="h", link=b"d/b", digest=b"x" * 32, size=3),
            ]
        ]
    )
    placed = place(select(source, "d"), EmptyTree(), "/n/", Metadata())
    rows = {item.entry.path: (item.entry.type, item.entry.link, item.source) for item in placed}
    assert rows[b"n/a"] == (FILE, b"", b"d/a")
    assert rows[b"n/b"] == ("h", b"n/a", None)
    assert rows[b"n/other"] == (FILE, b"", b"d/other")


def test_unpacked_archive_replaces_what_is_in_the_way() -> None:
    below = tree("a/", "a/old", "sub -> elsewhere")
    rows = {
        item.entry.path: item.entry.type for item in place(select(CONTEXT, "dir"), below, "/", Metadata(replace=True))
    }
    assert rows == {b"a": FILE, b"sub": DIR, b"sub/b": FILE}


def unpacked(below: Tree, dest: str = "/") -> dict[bytes, Entry]:
    """Unpack an archive of the one member `lib/sub/new` there."""
    archive = tree("lib/sub/new")
    entries = tuple(archive.walk(b""))
    selected = Selected(b"", b"", entries, implied=frozenset({b"", b"lib", b"lib/sub"}))
    return {item.entry.path: item.entry for item in place([selected], below, dest, Metadata(replace=True))}


def test_directories_that_an_archive_only_implies_keep_what_they_are() -> None:
    found = unpacked(tree("lib/", uid=7))
    assert {path: (entry.mode, entry.uid) for path, entry in found.items() if entry.type == DIR} == {
        b"lib": (0o700, 7),
        b"lib/sub": (0o755, 0),
    }


def test_links_to_directories_that_an_archive_implies_are_followed_inside_of_the_destination() -> None:
    assert set(unpacked(tree("lib -> /usr/lib", "usr/"))) == {b"usr", b"usr/lib", b"usr/lib/sub", b"usr/lib/sub/new"}
    below = tree("x/", "x/lib -> ../../y", "y/")
    assert set(unpacked(below, "/x/")) == {b"x", b"x/y", b"x/y/sub", b"x/y/sub/new"}


def test_a_directory_in_the_place_of_a_file_hides_all_that_was_below_the_name() -> None:
    assert unpacked(tree("lib"))[b"lib"].opaque


def test_names_of_one_file_are_links_to_the_first() -> None:
    [directory] = select(CONTEXT, "dir")
    linked = with_hard_links(directory, {b"dir/sub/b": 1, b"dir/a": 1, b"file": 1})
    by_path = {item.entry.path: item.entry for item in place([linked], EmptyTree(), "/x", Metadata())}
    # Whoever knows that they are one file need not have read it
    assert by_path[b"x/sub/b"].type == FILE
    unread = [entry if entry.type == DIR else msgspec.structs.replace(entry, digest=b"") for entry in linked.entries]
    placed = place([msgspec.structs.replace(linked, entries=tuple(unread))], EmptyTree(), "/x", Metadata())
    by_path = {item.entry.path: item.entry for item in placed}
    assert (by_path[b"x/sub/b"].type, by_path[b"x/sub/b"].link) == (HARDLINK, b"x/a")
