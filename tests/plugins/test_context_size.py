"""`pybuild context size`, on real directories."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.context.ignore import IgnoreMatcher
from pybuild.plugin import PybuildError, ignore_pattern, open_context
from pybuild_context.measure import Report
from pybuild_context.page import page
from pybuild_context.picture import Box, picture, squarify
from pybuild_context.size import look, size
from pybuild_context.values import as_values
from support.here import Here
from support.program import Pybuild


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_STORE", str(tmp_path / "no-store"))


def write(root: Path, **files: int | str | None) -> None:
    """Write files of so many bytes, or with a text; "__" in a name is "/"."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * content if isinstance(content, int) else content or "")


def measured(root: Path, dockerfile: str = "", ignore: str = "") -> Report:
    if dockerfile:
        (root / "Dockerfile").write_text(dockerfile)
    if ignore:
        (root / ".dockerignore").write_text(ignore)
    return look(str(root), "", [], duplicates=True)


def unused(report: Report) -> set[str]:
    return {one.name for one in report.unused}


def test_totals_count_what_stays_and_what_each_line_leaves_out(context: Path) -> None:
    write(context, src__aDOTpy=100, src__bDOTpy=50, logs__xDOTlog=7, logs__keepDOTlog=5, build__out=1000)
    report = measured(context, ignore="# none\n**/*.log\nbuild\n!logs/keep.log\nnothing\n")
    # The ignore file is there too
    stays = os.path.getsize(context / ".dockerignore")
    assert (report.total.bytes, report.total.files) == (155 + stays, 4)
    assert (report.ignored.bytes, report.ignored.files) == (1007, 2)
    assert [(line.line, line.pattern, line.bytes, line.files) for line in report.lines] == [
        (2, "**/*.log", 7, 1),
        (3, "build", 1000, 1),
        (5, "nothing", 0, 0),
    ]
    assert [child.name for child in report.tree.children] == ["src", ".dockerignore", "logs"]
    assert {one.name: one.bytes for one in report.extensions} == {".py": 150, ".log": 5, "": stays}
    assert report.used is None
    assert report.why == "there is no Dockerfile"


@pytest.mark.parametrize(
    ("dockerfile", "left"),
    [
        ("COPY . .", set()),
        ("COPY src /", {"docs", "data", "top"}),
        ("COPY src/a.py top /", {"src/b.txt", "src/deep", "docs", "data"}),
        ("COPY */*.py /", {"src/b.txt", "src/deep", "docs", "data", "top"}),
        ("COPY --exclude=**/*.txt src /", {"src/b.txt", "src/deep", "docs", "data", "top"}),
        ("ADD docs data /x/", {"src", "top"}),
        ("RUN --mount=type=bind,source=src/deep,target=/x true", {"src/a.py", "src/b.txt", "docs", "data", "top"}),
        ("FROM scratch AS other\nCOPY docs /\nFROM scratch\nCOPY data /", {"src", "top"}),
        ("FROM scratch AS other\nCOPY docs /\nFROM scratch\nCOPY --from=other /src /", {"src", "top", "data"}),
        ("ARG WHAT=docs\nCOPY $WHAT /", {"src", "top", "data"}),
        ("COPY --parents ./src/./**/*.txt /", {"src/a.py", "docs", "data", "top"}),
        ("COPY <<here /x\ntext\nhere", {"src", "docs", "data", "top"}),
    ],
)
def test_what_no_step_uses(context: Path, dockerfile: str, left: set[str]) -> None:
    write(context, src__aDOTpy=1, src__bDOTtxt=1, src__deep__cDOTtxt=1, docs__d=1, data__e__f=1, top=1)
    report = measured(context, f"FROM scratch\n{dockerfile}\n")
    assert unused(report) == left
    assert report.used is not None


def test_links_that_copy_follows_make_their_targets_used(context: Path) -> None:
    write(context, real__file=5, real__other=5, away=5, near=5)
    (context / "link").symlink_to("real/file")
    (context / "inside").mkdir()
    (context / "inside" / "back").symlink_to("../near")
    assert unused(measured(context, "FROM scratch\nCOPY link inside /\n")) == {"real/other", "away"}


def test_a_file_that_is_left_out_is_not_suggested(context: Path) -> None:
    write(context, a__x=1, a__y=1, b=1)
    assert unused(measured(context, "FROM scratch\nCOPY b /\n", "a/x\n")) == {"a"}
    assert unused(measured(context, "FROM scratch\nCOPY b /\n", "a\n")) == set()


def test_a_dockerfile_with_a_mistake_is_named_and_the_sizes_are_told(context: Path) -> None:
    write(context, b=10)
    report = measured(context, "FROM scratch\nCOPY b\n")
    assert report.used is None
    assert report.why.startswith("Dockerfile:2: ")
    assert report.total.files == 2


def test_files_of_the_same_content_are_found_and_others_are_not(context: Path) -> None:
    same, other = "a" * 10_000, "a" * 9_999 + "b"
    write(context, one=same, two__three=same, four=other, small="s", also_small="s")
    os.link(context / "one", context / "five")
    [found] = measured(context).duplicates
    assert found == (10_000, ("five", "one", "two/three"))


def test_what_cannot_be_read_is_named(context: Path) -> None:
    if not os.geteuid():
        pytest.skip("root reads everything")
    write(context, closed__file=1)
    (context / "closed").chmod(0)
    report = measured(context)
    (context / "closed").chmod(0o755)
    assert report.unreadable == ("closed",)


@given(st.text(st.characters(blacklist_characters="/\0\r\n", blacklist_categories=["Cs"]), min_size=1, max_size=8))
def test_a_pattern_for_a_path_matches_it(name: str) -> None:
    if name in (".", ".."):
        return
    matcher = IgnoreMatcher.parse(f"{ignore_pattern(name)}\n{ignore_pattern(f'in/{name}')}\n")
    assert matcher.matches(name)
    assert matcher.matches(f"in/{name}")
    assert not matcher.matches(f"in/x{name}")


def test_fix_leaves_out_what_is_not_used_and_changes_no_image(inline: Pybuild, context: Path) -> None:
    write(context, src__a=10, docs__b=2000, **{"[odd] !": 30})
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")
    before = inline.image(context).config_digest
    told = inline("context", "size", "--fix", context).text
    assert told.endswith(f"added 2 lines to {context}/.dockerignore: 2.03kB less\n")
    lines = (context / ".dockerignore").read_text().splitlines()
    assert lines == ["# No COPY, ADD or mount uses these", "docs", "\\[odd] !"]
    assert inline.image(context).config_digest == before
    assert inline("context", "size", "--fix", context).text.endswith("nothing to add\n")
    # What is there stays, with or without a last line end
    (context / ".dockerignore").write_text("docs")
    inline("context", "size", "--fix", context)
    assert (context / ".dockerignore").read_text() == "docs\n# No COPY, ADD or mount uses these\n\\[odd] !\n"


def test_what_an_ignore_file_brought_back_is_left_out_by_a_line_of_its_own(inline: Pybuild, context: Path) -> None:
    write(context, src__a=10, lib__kept__b=2000, lib__gone__c=300)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")
    (context / ".dockerignore").write_text("lib\n!lib/kept\n")
    assert "2kB less" in inline("context", "size", "--fix", context).text
    assert (context / ".dockerignore").read_text().splitlines()[-1] == "lib/kept"
    assert inline("context", "size", "--fix", context).text.endswith("nothing to add\n")


def test_fix_without_knowing_what_is_used_is_refused(context: Path) -> None:
    with pytest.raises(PybuildError, match="what is used is not known: there is no Dockerfile"):
        size(str(context), fix=True)


def test_what_changed_since_a_build_is_told(inline: Pybuild, context: Path) -> None:
    write(context, src__a=10, src__b=10)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")

    def changed() -> Any:
        return inline.json("context", "size", "--json", str(context))["changed"]

    assert changed() is None
    # Files as young as their digest are not remembered, for they may change once more within the same tick
    for name in "ab":
        os.utime(context / "src" / name, (1, 1))
    time.sleep(0.1)
    inline.build(context)
    assert changed() == []
    (context / "src" / "b").write_text("other")
    assert changed() == ["src/b"]
    assert "\nChanged since the last build\n  src/b\n" in inline("context", "size", str(context)).text


def test_triggers_of_base_images_count(inline: Pybuild, context: Path) -> None:
    write(context, src__a=10, docs__b=10)
    inline.build(context, "-t", "trigger", dockerfile="FROM scratch\nONBUILD COPY docs /docs\n")
    (context / "Dockerfile").write_text("FROM trigger\n")
    report = inline.json("context", "size", "--json", str(context))
    assert [one["path"] for one in report["unused"]] == ["src"]
    assert report["unknownBases"] == []
    (context / "Dockerfile").write_text("FROM not-here\n")
    assert inline.json("context", "size", "--json", str(context))["unknownBases"] == ["not-here"]


def test_the_text_says_it_in_few_lines(here: Here, context: Path) -> None:
    write(context, src__aDOTpy=9_000, docs__bDOTmd=1_000)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /\n")
    (context / "bad\x1b[31m\n").write_text("x" * 500)
    text = here("context", "size", context).text
    assert "\x1b" not in text
    assert re.search(r"used by COPY, ADD and mounts +9kB in 1 file\n", text)
    assert re.search(r"█+.* 8\d% +9kB +src/\n", text)
    assert re.search(r"\n +1kB +1 file +docs\n", text)
    assert f"{context}: 10.5kB in 4 files" in text


def test_json_holds_all_of_it(context: Path) -> None:
    write(context, **{f"d__{number}": 3 for number in range(300)})
    values = as_values(measured(context))
    assert json.loads(json.dumps(values)) == values
    [directory] = values["tree"]["children"]
    assert len(directory["children"]) == 201
    assert directory["children"][-1] == {"name": "(100 more)", "bytes": 300, "files": 100}


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=60).map(lambda sizes: sorted(sizes, reverse=True)),
    st.integers(10, 1000),
    st.integers(10, 1000),
)
def test_rectangles_have_the_sizes_and_fill_the_box(sizes: list[int], width: int, height: int) -> None:
    places = squarify(sizes, Box(0, 0, width, height))
    scale = width * height / sum(sizes)
    for size_, place in zip(sizes, places, strict=True):
        assert abs(place.width * place.height - size_ * scale) < 1e-6 * width * height
        assert place.x >= -1e-6
        assert place.x + place.width <= width + 1e-6
        assert place.y + place.height <= height + 1e-6


def test_the_picture_is_svg_with_a_rectangle_for_each_large_file(context: Path) -> None:
    write(context, **{"a__<b>&": 5_000, "c": 1_000})
    picture_ = picture(measured(context).tree, "it")
    root = ElementTree.fromstring(picture_)
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["it: 6kB, 2 files", "it/a: 5kB, 1 files", "it/a/<b>&: 5kB, 1 files", "it/c: 1kB, 1 files"]


def test_the_page_holds_its_data_and_nothing_can_end_it_early(context: Path) -> None:
    write(context, **{"a__b": 5, "<": 0})
    (context / "<script>").mkdir()
    (context / "<script>" / "x").write_text("1")
    text = page(measured(context, "FROM scratch\n"))
    assert text.count("<script") == 2
    assert re.search(r"https?:|src=|href=", text) is None
    data = re.search(r'<script type="application/json" id="tree">(.*?)</script>', text)
    assert data is not None
    assert {child["name"] for child in json.loads(data[1])["children"]} == {"a", "<script>", "Dockerfile", "<"}


DOM = """
const made = [];
function element() {
  return {children: [], style: {}, append(...more) { this.children.push(...more) }, clientWidth: 800, clientHeight: 600,
          replaceChildren() { this.children = [] }};
}
const known = {map: element(), path: element(), tree: {textContent: TREE}};
global.window = {};
global.document = {getElementById: id => known[id], createElement: element};
SCRIPT
const names = () => known.map.children.map(box => box.textContent);
const path = () => known.path.children.filter(step => typeof step === "object").map(step => step.textContent);
const seen = [[names(), path()]];
known.map.children.find(box => box.textContent === "a/").onclick();
seen.push([names(), path()]);
known.path.children[0].onclick();
seen.push([names(), path()]);
console.log(JSON.stringify(seen));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to run the script of the page")
def test_a_click_in_the_page_goes_in_and_one_in_its_path_goes_back(context: Path) -> None:
    write(context, a__b=500, a__c=300, d=200)
    text = page(measured(context))
    tree, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    code = DOM.replace("TREE", json.dumps(tree)).replace("SCRIPT", script)
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, timeout=60, check=True)
    top = [["a/", "d"], ["context"]]
    assert json.loads(done.stdout) == [top, [["b", "c"], ["context", "a"]], top]


@pytest.mark.slow
def test_fifty_thousand_files_are_all_looked_at(tmp_path: Path) -> None:
    for directory in range(100):
        place = tmp_path / "context" / f"d{directory % 7}" / f"e{directory}"
        place.mkdir(parents=True)
        for number in range(500):
            os.close(os.open(place / f"f{number}.py", os.O_CREAT | os.O_WRONLY))
    root = tmp_path / "context"
    (root / ".dockerignore").write_text("**/*.log\n**/node_modules\nd3/e3\n")
    (root / "Dockerfile").write_text("FROM scratch\nCOPY d1 d2/e2 /\nCOPY d*/*/*7.py /x/\n")
    report = look(str(root), "", [], duplicates=True)
    assert report.total.files + report.ignored.files == 50_002


def test_the_context_says_which_lines_decide(context: Path) -> None:
    (context / ".dockerignore").write_text("# first\n*.log\n\n!keep*\nkeep.log.old\n")
    opened = open_context(context)
    assert [line.number for line in opened.ignoring_lines("a.log")] == [2]
    assert [(line.number, line.negated) for line in opened.ignoring_lines("keep.log")] == [(2, False), (4, True)]
    assert opened.ignoring_lines("other") == []
