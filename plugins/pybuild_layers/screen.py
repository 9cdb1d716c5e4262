"""The browser on a terminal."""

import contextlib
import curses
from typing import Any

from pybuild_layers.analysis import Analysis
from pybuild_layers.browser import CURSOR, GONE, MENDED, NEW, TITLE, Browser

_KEYS = {
    "\t": "tab",
    "\n": "enter",
    "\r": "enter",
    " ": "enter",
    "\x1b": "escape",
    curses.KEY_BTAB: "backtab",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "pageup",
    curses.KEY_NPAGE: "pagedown",
    curses.KEY_ENTER: "enter",
}
_COLOURS = {NEW: curses.COLOR_GREEN, MENDED: curses.COLOR_YELLOW, GONE: curses.COLOR_RED}


def browse(analysis: Analysis) -> None:
    """Show an image on the terminal until its user has seen enough."""
    curses.wrapper(_run, Browser(analysis))


def _run(screen: Any, browser: Browser) -> None:
    looks = {CURSOR: curses.A_REVERSE, TITLE: curses.A_BOLD}
    # A terminal may have no colours, or no cursor that could be hidden
    with contextlib.suppress(curses.error):
        curses.curs_set(0)
    with contextlib.suppress(curses.error):
        curses.use_default_colors()
        for look, colour in _COLOURS.items():
            curses.init_pair(look, colour, -1)
            looks[look] = curses.color_pair(look)
    while True:
        height, width = screen.getmaxyx()
        screen.erase()
        for row, line in enumerate(browser.lines(height, width - 1)):
            screen.addstr(row, 0, line.text, looks.get(line.look, curses.A_NORMAL))
        screen.refresh()
        key = screen.get_wch()
        if not browser.press(_KEYS.get(key, key if isinstance(key, str) else ""), height):
            return
