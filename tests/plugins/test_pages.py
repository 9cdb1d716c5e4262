"""The HTML pages of plugins in a real browser: what is clicked shows what it should, and nothing is fetched."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pybuild.plugin import ImageLayer, ImageLayers, LayerEntry
from pybuild_context.page import page as context_page
from pybuild_context.size import look
from pybuild_layers.analysis import analyse, differences
from pybuild_layers.page import difference_page
from pybuild_layers.page import page as layers_page
from support.browser import Browser, Page, browser, needs_browser

pytestmark = needs_browser
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def opened(chromium: Browser, tmp_path: Path, text: str) -> Page:
    place = tmp_path / "page.html"
    place.write_text(text, errors="replace")
    return Page(chromium, place.as_uri())


def boxes(page: Page) -> dict[str, dict[str, Any]]:
    """Return the boxes of a treemap by their names, with their areas in parts of the map."""
    rows = page(
        "(() => { const map = document.getElementById('map').getBoundingClientRect();"
        " return [...document.querySelectorAll('#map button')].map(one => { const box = one.getBoundingClientRect();"
        " return {name: one.textContent, part: box.width * box.height / (map.width * map.height)}; }); })()"
    )
    return {row["name"]: row for row in rows}


def test_a_click_in_the_treemap_goes_in_and_the_path_goes_back(
    chromium: Browser, tmp_path: Path, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBUILD_STORE", str(tmp_path / "no-store"))
    for name, size in {"src/deep/one": 6_000, "src/two": 2_000, "docs/<b>.md": 2_000}.items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * size)
    page = opened(chromium, tmp_path, context_page(look(str(context), "", [], duplicates=True)))
    assert page.texts("#path") == ["context 10.0kB, 3 files"]
    top = boxes(page)
    assert {name: round(box["part"], 1) for name, box in top.items()} == {"src/": 0.8, "docs/": 0.2}
    before = page.screenshot()
    page.click("#map button", "src/")
    assert page.texts("#path") == ["context / src 8.00kB, 2 files"]
    assert {name: round(box["part"], 2) for name, box in boxes(page).items()} == {"deep/": 0.75, "two": 0.25}
    assert page.screenshot()[:8] == PNG
    assert page.screenshot() != before
    # A file has nothing to go into, and a window of another size shows the same place
    page.click("#map button", "two")
    # What the page draws anew then would be in the way of the next click
    page("globalThis.resized = new Promise(done => addEventListener('resize', () => done(1), {once: true})); 1")
    page.call("Emulation.setDeviceMetricsOverride", width=600, height=500, deviceScaleFactor=1, mobile=False)
    page.call("Runtime.evaluate", expression="resized", awaitPromise=True)
    assert page.texts("#path") == ["context / src 8.00kB, 2 files"]
    page.click("#path button", "context")
    page.click("#map button", "docs/")
    assert [*boxes(page)] == ["<b>.md"]
    assert page.faults() == []


def entry(path: str, type: str = "f", size: int = 0, digest: str = "") -> LayerEntry:
    return LayerEntry(path, type, 0o644, 0, 0, size, 0, "", digest, False)


def image(*layers: list[LayerEntry]) -> ImageLayers:
    made = tuple(ImageLayer(f"sha256:{index}", 0, f"step <{index}>", tuple(rows)) for index, rows in enumerate(layers))
    return ImageLayers("sha256:x", ("x:latest",), 0, made)


FIRST = [entry("etc", "d"), entry("etc/conf", size=100, digest="1"), entry("etc/old", size=50), entry("<top>", size=7)]
SECOND = [entry("etc", "d"), entry("etc/conf", size=120, digest="2"), entry("etc/old", "w"), entry("etc/new", size=9)]


def test_a_layer_that_is_clicked_shows_what_it_did(chromium: Browser, tmp_path: Path) -> None:
    page = opened(chromium, tmp_path, layers_page(analyse(image(FIRST, SECOND))))
    assert "step <1>" in page.texts("#views td")
    assert page.texts("#tree span, #tree button") == ["129B  + etc/", "7B    <top>  (layer 1)"]
    page.click("#tree button", "129B  + etc/")
    assert page.texts("#tree li li") == ["120B    conf  (layer 2)", "9B    new  (layer 2)"]
    page.click("#views button", "2")
    assert page.texts("#views tr.chosen td:first-child") == ["2"]
    page.click("#tree button", "179B  + etc/")
    assert page.texts("#tree li li") == ["~     120B    conf", "-      50B    old", "+       9B    new"]
    assert page("document.querySelector('.hidden').textContent").endswith("old")
    page.click("#tree button", "179B  - etc/")
    assert page.texts("#tree li li") == []
    assert page.texts("#waste td") == ["100B", "1", "etc/conf", "50B", "1", "etc/old"]
    assert page.screenshot()[:8] == PNG
    assert page.faults() == []


def test_how_two_images_differ_is_a_page_too(chromium: Browser, tmp_path: Path) -> None:
    one, other = analyse(image(FIRST)), analyse(image(FIRST, SECOND))
    page = opened(chromium, tmp_path, difference_page(one, other, differences(one, other)))
    assert page.texts("#views tr.chosen td") == ["differences", "", "1", "1", "1", "from x:latest to x:latest"]
    page.click("#tree button", "179B  + etc/")
    assert page.texts("#tree li li") == [
        "~     120B    conf  (content, 100B before)",
        "-      50B    old",
        "+       9B    new",
    ]
    assert page.faults() == []


def test_a_page_cannot_reach_the_network(chromium: Browser, tmp_path: Path) -> None:
    page = opened(chromium, tmp_path, layers_page(analyse(image(FIRST))))
    refused = page(
        "new Promise(done => { document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));"
        " const image = new Image(); image.src = 'http://127.0.0.1:9/x'; document.body.append(image); })".replace(
            "new Promise", "globalThis.refused = new Promise"
        )
        + "; 1"
    )
    assert refused == 1
    answer = page.call("Runtime.evaluate", expression="refused", awaitPromise=True, returnByValue=True)
    assert answer["result"]["value"] == "http://127.0.0.1:9/x"
