"""What of a directory COPY --exclude and --parents choose."""

import pytest

from pybuild.context.ignore import IgnoreMatcher
from pybuild.tree.copy import Metadata, SourceNotFoundError, place, select, select_with_parents
from pybuild.tree.entry import DIR, FILE, SYMLINK, Entry
from pybuild.tree.matching import Choice, Matching
from pybuild.tree.merged import EmptyTree, MergedTree
from pybuild.tree.paths import TreeError


def tree(*rows: str, mode: int = 0o700, uid: int = 0) -> MergedTree:
    toc = []
    for row in rows:
        path, arrow, target = row.partition(" -> ")
        kind = SYMLINK if arrow else DIR if path.endswith("/") else FILE
        toc.append(
            Entry(path=path.rstrip("/").encode(), type=kind, mode=mode, uid=uid, link=target.encode(), digest=b"d")
        )
    return MergedTree([toc])


CONTEXT = tree(
    "a.txt", "src/", "src/a.txt", "src/b.o", "src/x/", "src/x/b.txt", "src/x/y/", "src/x/y/c.txt", "src/x/y/d.o",
    "src/z/", "link -> src", "zz.txt",
)  # fmt: skip


def matching(*patterns: str) -> Matching:
    return IgnoreMatcher(patterns).root


def excluding(source: str, *patterns: str) -> list[str]:
    selections = select(CONTEXT, source, Choice(exclude=matching(*patterns)))
    return [item.entry.path.decode() for item in place(selections, EmptyTree(), "/d/", Metadata())][1:]


def with_parents(source: str, *excludes: str) -> list[str]:
    exclude = matching(*excludes) if excludes else None
    selections = select_with_parents(CONTEXT, source, matching, exclude)
    return [item.entry.path.decode() for item in place(selections, EmptyTree(), "/d/", Metadata())][1:]


@pytest.mark.parametrize(
    ("source", "patterns", "expected"),
    [
        ("src", ["*.o"], ["d/a.txt", "d/x", "d/x/b.txt", "d/x/y", "d/x/y/c.txt", "d/x/y/d.o", "d/z"]),
        ("src", ["**/*.o", "z"], ["d/a.txt", "d/x", "d/x/b.txt", "d/x/y", "d/x/y/c.txt"]),
        ("src", ["x", "!x/y/c.txt"], ["d/a.txt", "d/b.o", "d/x", "d/x/y", "d/x/y/c.txt", "d/z"]),
        ("src", ["*"], []),
        ("*.txt", ["zz*"], ["d/a.txt"]),
        ("a.txt", ["*.txt"], ["d/a.txt"]),
    ],
)
def test_exclude_matches_below_each_source(source: str, patterns: list[str], expected: list[str]) -> None:
    assert excluding(source, *patterns) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("src/x/b.txt", ["d/src", "d/src/x", "d/src/x/b.txt"]),
        ("./src/../src/x/b.txt", ["d/src", "d/src/x", "d/src/x/b.txt"]),
        ("src/./x/b.txt", ["d/x", "d/x/b.txt"]),
        ("/link/./x/b.txt", ["d/x", "d/x/b.txt"]),
        ("src/x/y", ["d/src", "d/src/x", "d/src/x/y", "d/src/x/y/c.txt", "d/src/x/y/d.o"]),
        ("src/*/*.txt", ["d/src", "d/src/x", "d/src/x/b.txt"]),
        ("src/**/*.txt", ["d/src", "d/src/a.txt", "d/src/x", "d/src/x/b.txt", "d/src/x/y", "d/src/x/y/c.txt"]),
        ("s*/./x/y/*.o", ["d/x", "d/x/y", "d/x/y/d.o"]),
        ("src/**/none*", []),
        ("link", ["d/link"]),
    ],
)
def test_parents_keep_the_path(source: str, expected: list[str]) -> None:
    assert with_parents(source) == expected


class Listed(MergedTree):
    """Tells which directories were listed."""

    def children(self, path: bytes) -> list[bytes]:
        self.seen.add(path)
        return super().children(path)

    seen: set[bytes] = set()


def test_directories_without_anything_chosen_are_not_listed() -> None:
    spied = Listed([[entry for entry in CONTEXT.walk(b"") if entry.path]])
    select_with_parents(spied, "src/x/*.txt", matching, None)
    assert spied.seen == {b"", b"src", b"src/x"}


def test_parents_with_excludes() -> None:
    assert with_parents("src", "**/*.txt") == ["d/src", "d/src/b.o", "d/src/x", "d/src/x/y", "d/src/x/y/d.o", "d/src/z"]


def test_plain_sources_of_parents_must_be_there() -> None:
    for source in ("src/none", "none/./x", "none/./*.txt"):
        with pytest.raises(SourceNotFoundError):
            with_parents(source)
    with pytest.raises(TreeError, match="does not follow a link"):
        with_parents("link/a.txt")


def test_directories_that_only_hold_others_leave_the_owner_of_those_that_are_there() -> None:
    below = tree("d/", "d/src/", "d/src/x/", mode=0o711, uid=7)
    selections = select_with_parents(CONTEXT, "src/x/y", matching, None)
    placed = {item.entry.path: item.entry for item in place(selections, below, "/d", Metadata(owner=(5, 5)))}
    assert (placed[b"d"].uid, placed[b"d"].mode) == (7, 0o711)
    assert (placed[b"d/src"].uid, placed[b"d/src"].mode) == (7, 0o700)
    assert placed[b"d/src/x/y"].uid == 5
    fresh = {item.entry.path: item.entry for item in place(selections, EmptyTree(), "/d", Metadata(owner=(5, 5)))}
    assert (fresh[b"d/src"].uid, fresh[b"d/src"].mode) == (5, 0o700)
