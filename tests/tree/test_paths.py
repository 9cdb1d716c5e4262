"""Links and wildcards inside a tree."""

import pytest

from pybuild.tree.entry import DIR, FILE, SYMLINK, Entry
from pybuild.tree.merged import MergedTree
from pybuild.tree.paths import TreeError, clean, glob, has_wildcard, resolve


def tree(*rows: str) -> MergedTree:
    """Rows are "dir/", "file" or "link -> target"."""
    toc = []
    for row in rows:
        path, arrow, target = row.partition(" -> ")
        if arrow:
            toc.append(Entry(path=path.encode(), type=SYMLINK, link=target.encode()))
        elif path.endswith("/"):
            toc.append(Entry(path=path[:-1].encode(), type=DIR, mode=0o755))
        else:
            toc.append(Entry(path=path.encode(), type=FILE))
    return MergedTree([toc])


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", ""), ("a//b/", "a/b"), ("./a/./b", "a/b"), ("../../etc", "etc"), ("a/../../b", "b"), ("", "")],
)
def test_clean_stays_below_the_root(path: str, expected: str) -> None:
    assert clean(path.encode()).decode() == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("lib/x", "usr/lib/x"),
        ("abs/x", "usr/lib/x"),
        ("up/x", "x"),
        ("dangling/x", "nowhere/x"),
        ("missing/../lib", "usr/lib"),
        ("../../lib", "usr/lib"),
    ],
)
def test_links_are_followed_inside_the_root(path: str, expected: str) -> None:
    root = tree("usr/", "usr/lib/", "lib -> usr/lib", "abs -> /usr/lib", "up -> ../../..", "dangling -> nowhere")
    assert resolve(root, path.encode()).decode() == expected


def test_last_link_can_be_left_alone() -> None:
    root = tree("a -> b", "b")
    assert resolve(root, b"a", follow_last=False) == b"a"


def test_loop_of_links_is_an_error() -> None:
    with pytest.raises(TreeError, match="too many symbolic links"):
        resolve(tree("a -> b", "b -> a"), b"a")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.c", ["a.c", "b.c"]),
        ("?.c", ["a.c", "b.c"]),
        ("[ab].c", ["a.c", "b.c"]),
        ("[^a].c", ["b.c"]),
        ("[a-b].?", ["a.c", "b.c"]),
        ("*", ["a.c", "b.c", "d", "star*"]),
        ("*/*", ["d/e.c"]),
        (r"s?ar\*", ["star*"]),
        ("d/*.h", []),
        ("/d/../*.c", ["a.c", "b.c"]),
        ("nosuch/*", []),
    ],
)
def test_wildcards_match_as_filepath_match(pattern: str, expected: list[str]) -> None:
    root = tree("a.c", "b.c", "d/", "d/e.c", "star*")
    assert [path.decode() for path in glob(root, pattern.encode())] == expected


@pytest.mark.parametrize("pattern", ["[", "[a", "[]", "[-]", "?a\\", "[b-", "[^"])
def test_malformed_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(TreeError, match="malformed pattern"):
        glob(tree("x"), pattern.encode() + b"")


def test_many_stars_take_no_time() -> None:
    root = tree("a" * 250)
    assert glob(root, b"*a" * 60 + b"*b") == []


def test_a_backslash_without_a_wildcard_is_part_of_the_name() -> None:
    assert not has_wildcard(rb"a\b")
    assert not has_wildcard(rb"a\*b")
    assert has_wildcard(rb"a\*b*")
    assert has_wildcard(rb"a\\*")
