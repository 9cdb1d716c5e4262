"""The merged view of a stack of layers."""

from pybuild.tree.entry import DIR, FILE, SYMLINK, WHITEOUT, Entry, decode_toc, encode_toc
from pybuild.tree.merged import MergedTree


def entry(path: str, kind: str = FILE, **fields: object) -> Entry:
    return Entry(path=path.encode(), type=kind, **fields)  # type: ignore[arg-type]


def names(tree: MergedTree, path: str) -> list[str]:
    return [name.decode() for name in tree.children(path.encode())]


def test_upper_layer_wins_and_directories_merge() -> None:
    tree = MergedTree(
        [
            [entry("a", DIR, mode=0o755), entry("a/x", size=1), entry("a/y", size=1)],
            [entry("a", DIR, mode=0o700), entry("a/x", size=2)],
        ]
    )
    found = tree.locate(b"a/x")
    assert found is not None
    assert (found[0], found[1].size) == (1, 2)
    directory = tree.get(b"a")
    assert directory is not None
    assert directory.mode == 0o700
    assert names(tree, "a") == ["x", "y"]


def test_whiteout_hides_a_file_and_all_below_a_directory() -> None:
    tree = MergedTree(
        [[entry("a", DIR), entry("a/x"), entry("b", DIR), entry("b/c")], [entry("a/x", WHITEOUT), entry("b", WHITEOUT)]]
    )
    assert tree.get(b"a/x") is None
    assert tree.get(b"b") is None
    assert tree.get(b"b/c") is None
    assert names(tree, "") == ["a"]
    assert names(tree, "b") == []


def test_path_made_again_above_a_whiteout_shows_only_the_new_content() -> None:
    tree = MergedTree([[entry("b", DIR), entry("b/old")], [entry("b", WHITEOUT)], [entry("b", DIR), entry("b/new")]])
    assert names(tree, "b") == ["new"]
    assert tree.get(b"b/old") is None


def test_opaque_directory_hides_what_is_below_it() -> None:
    tree = MergedTree([[entry("d", DIR), entry("d/old")], [entry("d", DIR, opaque=True), entry("d/new")]])
    assert names(tree, "d") == ["new"]
    assert tree.get(b"d/old") is None


def test_file_over_directory_hides_its_content() -> None:
    tree = MergedTree([[entry("d", DIR), entry("d/x")], [entry("d", FILE)]])
    assert tree.get(b"d/x") is None
    assert tree.children(b"d") == []


def test_directories_a_layer_leaves_out_are_implied() -> None:
    tree = MergedTree([[entry("a/b/c")]])
    implied = tree.get(b"a/b")
    assert implied is not None
    assert (implied.type, implied.mode) == (DIR, 0o755)
    assert names(tree, "") == ["a"]
    assert [e.path for e in tree.walk(b"")] == [b"", b"a", b"a/b", b"a/b/c"]


def test_implied_directory_takes_the_metadata_of_a_lower_layer() -> None:
    tree = MergedTree([[entry("a", DIR, mode=0o711)], [entry("a/x")]])
    found = tree.get(b"a")
    assert found is not None
    assert found.mode == 0o711


def test_opaque_root_hides_everything_below() -> None:
    tree = MergedTree([[entry("x")], [entry("", DIR, opaque=True), entry("y")]])
    assert names(tree, "") == ["y"]


def test_table_survives_encoding_with_odd_names() -> None:
    toc = [entry("link", SYMLINK, link=b"\xff\n"), Entry(path=b"\xff", type=FILE, xattrs={b"user.a": b"\0"})]
    assert decode_toc(encode_toc(toc)) == toc
