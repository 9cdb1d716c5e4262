"""`pybuild layers`: the analysis on tables made by hand, the command on real images."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.plugin import ImageLayer, ImageLayers, LayerEntry
from pybuild_layers.analysis import Change, Difference, Waste, analyse, differences
from pybuild_layers.page import page
from support.here import Here
from support.program import Pybuild


def entry(path: str, type: str = "f", size: int = 0, digest: str = "", link: str = "", **more: int) -> LayerEntry:
    return LayerEntry(
        path, type, more.get("mode", 0o644), more.get("uid", 0), 0, size, 0, link, digest, bool(more.get("opaque"))
    )


def image(*layers: list[LayerEntry]) -> ImageLayers:
    made = tuple(ImageLayer(f"sha256:{index}", 0, f"step {index}", tuple(rows)) for index, rows in enumerate(layers))
    return ImageLayers("sha256:x", ("x:latest",), 0, made)


LOWEST = [
    entry("a", "d"),
    entry("a/one", size=100, digest="1"),
    entry("a/two", size=50, digest="2"),
    entry("b", size=7),
]


def test_what_is_overwritten_is_hidden_below() -> None:
    found = analyse(image(LOWEST, [entry("a", "d"), entry("a/one", size=120, digest="3")]))
    assert found.changes[1] == (Change("~", "a/one", "f", 120),)
    assert found.waste == (Waste("a/one", 100, (0,)),)
    assert (found.seen, found.wasted, found.stored) == (177, 100, 277)
    assert found.tree["a/one"][0] == 1


def test_a_whiteout_hides_all_that_is_below_it() -> None:
    found = analyse(image(LOWEST, [entry("a", "w")], [entry("a", "d"), entry("a/two", size=1)]))
    assert sorted(change[:2] for change in found.changes[1]) == [("-", "a"), ("-", "a/one"), ("-", "a/two")]
    assert found.sums(1) == (0, 0, 2, 0)
    assert found.waste == (Waste("a/one", 100, (0,)), Waste("a/two", 50, (0,)))
    assert sorted(found.tree) == ["a", "a/two", "b"]


def test_a_whiteout_of_a_directory_that_no_layer_names_works_too() -> None:
    found = analyse(image([entry("x/y/z", size=5)], [entry("x", "w")]))
    assert found.tree == {}
    assert found.wasted == 5


def test_an_opaque_directory_hides_what_was_in_it_and_not_what_its_layer_has() -> None:
    found = analyse(image(LOWEST, [entry("a/new", size=3), entry("a", "d", opaque=1)]))
    assert sorted(found.tree) == ["a", "a/new", "b"]
    assert found.wasted == 150


def test_a_file_in_the_place_of_a_directory_hides_what_was_in_it() -> None:
    found = analyse(image(LOWEST, [entry("a", "f", size=9)]))
    assert sorted(found.tree) == ["a", "b"]
    assert (found.seen, found.wasted) == (16, 150)


def test_a_hard_link_takes_no_room_and_a_directory_is_no_change_unless_it_differs() -> None:
    rows = [entry("a", "d"), entry("a/link", "h", size=100, link="a/one")]
    found = analyse(image(LOWEST, rows, [entry("a", "d", mode=0o700)]))
    assert found.changes[1] == (Change("+", "a/link", "h", 0),)
    assert found.changes[2] == (Change("~", "a", "d", 0),)
    assert found.wasted == 0
    assert found.efficiency == 1


NAMES = st.sampled_from(["a", "a/b", "a/b/c", "a/d", "e", "e/f"])
ENTRIES = st.builds(
    lambda path, kind, size: entry(path, kind, size=size if kind == "f" else 0),
    NAMES,
    st.sampled_from("fdwl"),
    st.integers(0, 9),
)


def naive(layers: list[list[LayerEntry]]) -> set[str]:
    """Return the paths that are seen, by going through all of them each time."""
    seen: set[str] = set()
    for rows in layers:
        for one in rows:
            if one.type == "w":
                seen = {path for path in seen if path != one.path and not path.startswith(one.path + "/")}
        for one in rows:
            if one.type not in "wd":
                seen = {path for path in seen if not path.startswith(one.path + "/")}
            if one.type != "w":
                seen.add(one.path)
    return seen


def sound(rows: list[LayerEntry]) -> list[LayerEntry]:
    """Return rows without two of a path, and without any below something that is no directory."""
    kept: dict[str, LayerEntry] = {}
    for one in sorted(rows, key=lambda one: one.path):
        above = [one.path.rsplit("/", count)[0] for count in range(1, one.path.count("/") + 1)]
        if one.path not in kept and all(kept[path].type == "d" for path in above if path in kept):
            kept[one.path] = one
    return [*kept.values()]


@given(st.lists(st.lists(ENTRIES, max_size=5).map(sound), max_size=5))
def test_every_byte_is_seen_or_hidden(layers: list[list[LayerEntry]]) -> None:
    found = analyse(image(*layers))
    assert found.seen + found.wasted == sum(one.size for rows in layers for one in rows if one.type == "f")
    assert set(found.tree) == naive(layers)


def test_how_two_images_differ() -> None:
    other = [
        entry("a", "d"),
        entry("a/one", size=100, digest="9"),
        entry("b", size=7, mode=0o755, uid=1),
        entry("c", size=1),
    ]
    assert differences(analyse(image(LOWEST)), analyse(image(other))) == [
        Difference("~", "a/one", 100, 100, "content"),
        Difference("-", "a/two", 50, 0, ""),
        Difference("~", "b", 7, 7, "mode, owner"),
        Difference("+", "c", 0, 1, ""),
    ]


@pytest.fixture
def wasteful(base: Pybuild, context: Path) -> Pybuild:
    """A store with an image that hides a file, and one that does not."""
    (context / "big").write_bytes(b"x" * 30_000)
    (context / "small").write_bytes(b"y" * 1_000)
    base.build(context, "-t", "lean", dockerfile="FROM scratch\nCOPY small /d/small\n")
    base.build(context, "-t", "fat", dockerfile="FROM lean\nCOPY big /d/big\nCOPY small /d/big\n")
    return base


@pytest.fixture
def here_too(inline_base: Pybuild, context: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs commands in this process, on a store with an image that hides a file."""
    (context / "big").write_bytes(b"x" * 30_000)
    (context / "small").write_bytes(b"y" * 1_000)
    text = "FROM scratch AS lean\nCOPY small /d/small\nFROM lean\nCOPY big /d/big\nCOPY small /d/big\n"
    inline_base.build(context, "-t", "lean", "--target", "lean", dockerfile=text)
    inline_base.build(context, "-t", "fat", dockerfile=text)
    monkeypatch.setenv("PYBUILD_STORE", str(inline_base.store))
    return here


@pytest.mark.userns
def test_a_file_that_a_step_removes_is_hidden(base: Pybuild, context: Path) -> None:
    (context / "big").write_bytes(b"x" * 30_000)
    base.build(context, "-t", "removed", dockerfile="FROM base\nCOPY big /d/big\nRUN rm -r /d\n")
    found = base.json("layers", "--json", "removed")
    assert found["waste"] == [{"path": "d/big", "bytes": 30_000, "layers": [2]}]
    assert [change["path"] for change in found["layers"][2]["changes"] if change["kind"] == "-"] == ["d", "d/big"]


def test_the_command_tells_layers_and_waste(wasteful: Pybuild) -> None:
    lines = wasteful("layers", "fat").text.splitlines()
    assert lines[0] == "fat:latest: 3 layers, 32kB of files"
    assert lines[1] == "  efficiency 6.2%, 30kB hidden by later layers"
    assert lines[4].split() == ["1", "1kB", "▍", "1", "COPY", "small", "/d/small", "#", "buildkit"]
    assert lines[6].split()[:4] == ["3", "1kB", "▍", "1"]
    assert lines[-1] == "      30kB  d/big  (in 2)"
    found = json.loads(wasteful("layers", "fat", "--json").out)
    assert (found["storedBytes"], found["seenBytes"], found["wastedBytes"]) == (32_000, 2_000, 30_000)
    assert wasteful("layers", "fat", "--layer", "3").text.splitlines()[-1] == "~      1kB  d/big"
    assert wasteful("layers", "fat", "--tree").text.splitlines() == [
        "████████████      2kB  d/  (1, 3)",
        "██████            1kB    big  (3)",
        "██████            1kB    small  (1)",
    ]


def test_limits_are_for_ci(here_too: Here) -> None:
    assert here_too("layers", "fat", "--ci", status=1).text.endswith("\n\nfailed: the efficiency is 6.2%, below 90%\n")
    here_too("layers", "lean", "--ci")
    here_too("layers", "fat", "--lowest-efficiency", "6")
    here_too("layers", "fat", "--highest-wasted", "30kB")
    assert "above 29kB" in here_too("layers", "fat", "--highest-wasted", "29k", status=1).text
    assert "32kB of files, above 0B" in here_too("layers", "fat", "--highest-size", "0", status=1).text
    assert "a size such as 10MB, not: x" in here_too("layers", "fat", "--highest-size", "x", status=2).err
    assert "No such image: none" in here_too("layers", "none", status=1).err
    assert "no such layer: 4" in here_too("layers", "fat", "-l", "4", status=2).err


def test_two_images_are_compared(here_too: Here) -> None:
    assert here_too("layers", "lean", "fat").text.splitlines() == [
        "1 layers shared, 0 and 2 of their own",
        "files: 1kB and 2kB (+1kB)",
        "1 path differs",
        "+                  1kB  d/big",
    ]
    assert json.loads(here_too("layers", "fat", "lean", "--json").text)["differences"] == [
        {"kind": "-", "path": "d/big", "before": 1000, "after": 0, "what": ""}
    ]


def test_pages_are_written_beside_what_else_is_asked_for(here_too: Here, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert here_too("layers", "fat", "--html", target).text == ""
    assert "<title>Layers of fat:latest</title>" in target.read_text()
    assert json.loads(here_too("layers", "fat", "--html", target, "--json").text)["wastedBytes"] == 30_000
    assert "below 90%" in here_too("layers", "fat", "--html", target, "--ci", status=1).text
    assert here_too("layers", "lean", "fat", "--html", target).text == ""
    assert "<title>lean:latest and fat:latest</title>" in target.read_text()
    assert re.search(r"https?:|src=|href=", target.read_text()) is None


def test_a_page_holds_its_data_whatever_the_files_are_called() -> None:
    rows = [
        entry("<!--<script>alert(1)", size=5),
        entry("\udcff", size=1),
        *(entry(f"d/{n}") for n in range(300)),
    ]
    text = page(analyse(image(rows)))
    assert text.count("<script") == 2
    data = re.search(r'<script type="application/json" id="trees">(.*?)</script>', text)
    assert data is not None
    seen, _ = json.loads(data[1])
    assert [node["name"] for node in seen] == ["<!--<script>alert(1)", "�", "d"]
    assert len(seen[2]["children"]) == 201
    assert seen[2]["children"][-1] == {"name": "(100 more)", "bytes": 0}
