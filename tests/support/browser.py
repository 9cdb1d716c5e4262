"""A real browser without a window: Chromium, spoken to in its DevTools protocol over a pair of pipes."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_FROM_US, _TO_US = 3, 4  # where Chromium has its ends


def found() -> str:
    """Return the browser that is installed, "" for none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


needs_browser = pytest.mark.skipif(not found(), reason="there is no Chromium to look at a page with")


class Page:
    """A page that is open."""

    def __init__(self, browser: "Browser", url: str) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Network"):
            self.call(f"{room}.enable")
        self.call("Page.navigate", url=url)
        browser.wait_for("Page.loadEventFired", self._session)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask something of this page and return the answer."""
        return self._browser.call(method, self._session, **parameters)

    def __call__(self, expression: str) -> Any:
        """Return the value of an expression; fail for an exception."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str, text: str) -> None:
        """Press the mouse in the middle of the element with this text."""
        place = self(
            f"(() => {{ const one = [...document.querySelectorAll({json.dumps(selector)})]"
            f".find(one => one.textContent.trim() === {json.dumps(text)});"
            " if (!one) return null; one.scrollIntoView(); const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        assert place is not None, f"there is no {selector} {text!r}: {self.texts(selector)}"
        where = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of elements, in order."""
        found: list[str] = self(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent.trim())"
        )
        return found

    def screenshot(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def faults(self) -> list[dict[str, Any]]:
        """Return what the page complained of, and what it asked for other than itself."""
        told = [one for one in self._browser.events if one.get("sessionId") == self._session]
        asked = [one for one in told if one["method"] == "Network.requestWillBeSent"]
        return [one for one in told if one["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")] + asked[1:]


class Browser:
    """A browser that runs; `events` are what it told without being asked."""

    def __init__(self, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._write, self._read = ours[1], os.fdopen(theirs[0], "rb")
        # Its sandbox needs what a test machine may not have, and it sees no page but ours
        words = [found(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1000,800"]

        def place() -> None:
            high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours[0], theirs[1])]
            os.dup2(high[0], _FROM_US)
            os.dup2(high[1], _TO_US)

        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            pass_fds=(_FROM_US, _TO_US),
            env={"PATH": os.environ["PATH"], "HOME": str(profile)},
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._buffer = b""
        self._asked = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Ask something and return the answer."""
        self._asked += 1
        asked = self._asked
        message: dict[str, Any] = {"id": asked, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == asked:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, method: str, session: str) -> None:
        """Wait until the browser tells of something."""
        while not any(one["method"] == method and one.get("sessionId") == session for one in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = self._read.read1(1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """End it."""
        os.close(self._write)
        self._process.terminate()
        self._process.wait(30)
        self._read.close()


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser and end it."""
    running = Browser(profile)
    try:
        yield running
    finally:
        running.close()
