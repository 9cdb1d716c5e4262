"""Listings: bounded, and comparable however far they are folded."""

import hashlib
import random

import msgspec
import pytest

from pybuild.tree import listing as module
from pybuild.tree.copy import Selected, heredoc
from pybuild.tree.entry import DIR, FILE, SYMLINK, Entry
from pybuild.tree.listing import TREE, Listing, Row, fold, listing, together


def entry(path: str, type: str = FILE, size: int = 1, **more: object) -> Entry:
    content = hashlib.sha256(path.encode()).digest() if type == FILE else b""
    return Entry(path=path.encode(), type=type, size=size, mode=0o644, digest=content, **more)  # type: ignore[arg-type]


def of(*entries: Entry) -> Listing:
    return listing([Selected(b"", b"", entries)], lambda path: b"asked" + path)


def forest(seed: int) -> Listing:
    rng = random.Random(seed)
    paths = {"/".join(rng.choice("abc") + str(level) for level in range(rng.randint(1, 6))) for _ in range(60)}
    directories = {path.rpartition("/")[0] for path in paths if "/" in path}
    return of(*(entry(path, DIR if path in directories else FILE) for path in sorted(paths | directories)))


def test_rows_say_what_decides_a_key() -> None:
    found = of(entry("", DIR), entry("a", size=5), entry("l", SYMLINK, link=b"a"), Entry(path=b"late", type=FILE))
    assert found.rows["."].about == "0644 0:0"
    assert (found.rows["a"].size, found.rows["a"].digest) == (5, hashlib.sha256(b"a").digest()[:8])
    assert found.rows["l"].digest == hashlib.sha256(b"a").digest()[:8]
    assert found.rows["late"].digest == b"askedlat"
    assert Listing.decode(found.encode()) == found


def test_a_listing_that_makes_no_sense_is_refused() -> None:
    odd = Listing({"d": Row("d", TREE, 1, b"far too long")}, 1)
    for data in (odd.encode(), b"", b"nonsense"):
        with pytest.raises(msgspec.DecodeError):
            Listing.decode(data)


def test_heredocs_are_rows_too() -> None:
    found = listing([heredoc("note", b"text")], lambda path: b"")
    assert [*found.rows] == ["<<note"]
    assert found.rows["<<note"].size == 4


@pytest.mark.parametrize("seed", range(20))
def test_folding_twice_is_folding_once(seed: int) -> None:
    found = forest(seed)
    for depth in range(5, 0, -1):
        once = fold(found, depth)
        assert all(path.count("/") < depth for path in once.rows)
        for further in range(depth - 1, 0, -1):
            assert fold(once, further) == fold(found, further)
        assert fold(once, -1) == fold(found, -1)
        assert sum(row.count for row in once.rows.values()) == len(found.rows)
        assert sum(row.size for row in once.rows.values()) == sum(row.size for row in found.rows.values())


def test_a_folded_directory_tells_a_change_deep_in_it() -> None:
    before, after = of(entry("d/e/f"), entry("d/e/g")), of(entry("d/e/f"), entry("d/e/g", size=2))
    assert fold(before, 1).rows["d"].type == TREE
    assert fold(before, 1).rows["d"] != fold(after, 1).rows["d"]


def test_very_many_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 10)
    found = of(*(entry(f"d{number % 4}/sub/f{number}") for number in range(40)))
    assert (found.depth, [*found.rows]) == (2, [f"d{number}/sub" for number in range(4)])
    flat = of(*(entry(f"f{number}") for number in range(40)))
    assert (flat.depth, flat.rows["."].count) == (-1, 40)
    assert together([found, flat]).rows.keys() == {"."}
    assert together([of(entry("a")), found]).rows.keys() == {"a", *found.rows}
