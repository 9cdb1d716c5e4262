"""The browser of layers: what it shows as values, and once on a real terminal."""

from pathlib import Path

import pytest

from pybuild.plugin import ImageLayer, ImageLayers, LayerEntry
from pybuild_layers.analysis import analyse
from pybuild_layers.browser import CURSOR, GONE, HELP, NEW, TITLE, Browser
from support.program import Pybuild
from support.terminal import Terminal


def entry(path: str, type: str = "f", size: int = 0) -> LayerEntry:
    return LayerEntry(path, type, 0o644, 0, 0, size, 0, "", "", False)


@pytest.fixture
def browser() -> Browser:
    lowest = (entry("d", "d"), entry("d/big", size=3000), entry("d/small", size=10), entry("top", size=50))
    highest = (entry("d", "d"), entry("d/big", "w"), entry("new", size=7))
    made = tuple(
        ImageLayer(f"sha256:{index}", 0, f"step {index}", rows) for index, rows in enumerate((lowest, highest))
    )
    return Browser(analyse(ImageLayers("sha256:x", ("x:1",), 0, made)))


def shown(browser: Browser, height: int = 10, width: int = 80) -> list[str]:
    return [line.text for line in browser.lines(height, width) if line.look != TITLE and line.text]


def test_a_layer_is_a_tree_that_opens(browser: Browser) -> None:
    assert shown(browser) == ["+   3.01kB  + d/", "+      50B    top"]
    assert browser.press("enter", 10)
    assert shown(browser) == ["+   3.01kB  - d/", "+      3kB      big", "+      10B      small", "+      50B    top"]
    browser.press("enter", 10)
    assert len(shown(browser)) == 2


def test_the_cursor_stays_on_what_there_is(browser: Browser) -> None:
    for keys, row in ((["up"], 0), (["down"], 1), (["down", "down"], 1), (["pageup"], 0), (["pagedown"], 1)):
        for key in keys:
            browser.press(key, 10)
        looks = [line.look for line in browser.lines(10, 80)]
        assert looks.index(CURSOR) - 2 == row


def test_layers_turn_and_all_below_can_be_seen(browser: Browser) -> None:
    browser.press("tab", 10)
    lines = browser.lines(10, 80)
    assert lines[1].text.startswith("layer 2 of 2  +1 ~0 -1 7B  step 1")
    browser.press("enter", 10)
    assert shown(browser) == ["       3kB  - d/", "-      3kB      big", "+       7B    new"]
    assert [line.look for line in browser.lines(10, 80)][3:5] == [GONE, NEW]
    browser.press("a", 10)
    assert "       10B      small" in shown(browser)
    assert "       50B    top" in shown(browser)
    browser.press("backtab", 10)
    assert browser.layer == 0
    assert not browser.press("q", 10)


def test_it_fits_any_screen(browser: Browser) -> None:
    browser.press("enter", 10)
    for height in range(1, 12):
        for width in (1, 5, 30):
            lines = browser.lines(height, width)
            assert len(lines) == height
            assert all(len(line.text) <= width for line in lines)
    assert browser.lines(4, 200)[-1].text == HELP


def test_an_image_without_layers_can_be_looked_at() -> None:
    browser = Browser(analyse(ImageLayers("sha256:x", (), 0, ())))
    for key in ("tab", "enter", "down", "a", "left"):
        assert browser.press(key, 5)
    assert browser.lines(5, 80)[0].text == "sha256:x: 100.0% of 0B seen"


def test_it_runs_on_a_terminal_and_leaves_it_as_it_was(inline: Pybuild, context: Path) -> None:
    (context / "hello").write_text("x" * 500)
    inline.build(context, "-t", "seen", dockerfile="FROM scratch\nCOPY hello /dir/hello\n")
    with Terminal(inline, "layers", "seen", "--browse") as terminal:
        terminal.expect("layer 1 of 1")
        terminal.type("\n")
        terminal.expect("hello")
        terminal.type("q")
        terminal.finish()
    assert "no terminal to look around on" in inline("layers", "seen", "--browse", status=2).err
