"""A live view of a build on a terminal: finished steps scroll up, running ones are redrawn below them.

Plain ANSI (ECMA-48): the cursor goes up over the live lines (CUU), the rest of the screen is erased (ED), and
everything is written again in one write, so that nothing flickers. Lines never exceed the width: a wrapped line
would make the count of lines to go up wrong.
"""

import os
import unicodedata
from collections import deque
from threading import Event as Flag
from threading import RLock, Thread
from time import time
from typing import TextIO, assert_never

from pybuild.api.events import (
    Built,
    Checked,
    Described,
    Event,
    Failed,
    Notice,
    Planned,
    PlannedStep,
    Pulled,
    Pushed,
    Reads,
    ShellEnded,
    ShellOpened,
    StepDone,
    StepLog,
    StepMissed,
    StepStarted,
    Transfer,
)
from pybuild.progress.escape import Lines, one_line, without_commands
from pybuild.progress.failure import built_line, failure_lines, finding_lines

LOG_LINES = 6
"""Last lines of output shown below a running step."""

_INTERVAL = 0.1
_RED, _YELLOW, _BLUE, _DIM, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[2m", "\x1b[0m"


class TtyRenderer:
    """Redraws ten times a second while steps run. Events may come from one thread only."""

    def __init__(self, out: TextIO, *, ci: bool = False, colours: bool | None = None) -> None:
        self._out, self._ci = out, ci
        self._colours = "NO_COLOR" not in os.environ if colours is None else colours
        self._steps: tuple[PlannedStep, ...] = ()
        self._began = time()
        self._finished = 0
        self._running: dict[int, float] = {}
        self._logs: dict[int, deque[str]] = {}
        self._transfers: dict[tuple[int, str], tuple[Transfer, float]] = {}
        self._lines = Lines()
        self._findings: list[Notice] = []
        self._above: list[str] = []
        self._drawn = 0
        self._paused = False
        self._lock = RLock()
        self._closed = Flag()
        self._ticker: Thread | None = None

    def show(self, event: Event) -> None:
        """Take an event in; what ends a step is drawn at once, the rest at the next tick."""
        with self._lock:
            # While there is a shell, and its user is asked how to go on, the terminal is theirs
            self._paused = isinstance(event, ShellOpened | ShellEnded)
            self._take(event)
            if isinstance(event, Built | Failed | ShellOpened | ShellEnded | Pulled | Pushed | Described):
                self._draw(live=False)
            elif self._ticker is None and isinstance(event, StepStarted | Transfer):
                self._ticker = Thread(target=self._tick, daemon=True, name="progress")
                self._ticker.start()

    def close(self) -> None:
        """Stop redrawing and take the live lines away; what is finished stays."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._lock:
            self._draw(live=False)

    def _tick(self) -> None:
        while not self._closed.wait(_INTERVAL):
            with self._lock:
                try:
                    if not self._paused:
                        self._draw(live=True)
                except (OSError, ValueError):
                    # The terminal is gone; the build need not be
                    return

    def _take(self, event: Event) -> None:
        match event:
            case Planned():
                self._steps = event.steps
            case StepStarted():
                self._running[event.step] = event.time
                self._logs[event.step] = deque(maxlen=LOG_LINES)
            case StepLog():
                log = self._logs.setdefault(event.step, deque(maxlen=LOG_LINES))
                log.extend(self._lines.feed(event.step, event.stream, event.text))
            case Transfer():
                key = (event.step, event.label)
                started = self._transfers[key][1] if key in self._transfers else time()
                if event.total and event.current >= event.total:
                    self._transfers.pop(key, None)
                else:
                    self._transfers[key] = (event, started)
            case StepDone():
                self._finished += 1
                took = max(0.0, event.time - self._running.pop(event.step, event.time))
                self._forget(event.step)
                mark = "CACHED " if event.cached else ""
                line = self._timed(f" => {mark}{self._label(event.step)}", took)
                self._above.append(self._paint(_BLUE, line))
            case Notice(rule=rule) if rule:
                self._findings.append(event)
            case Notice():
                place = f"line {event.line}: " if event.line else ""
                text = f"{one_line(event.level)}: {place}{one_line(event.message)}"
                self._above.append(self._paint(_YELLOW, text) if event.level == "warning" else text)
            case Built():
                self._tell_findings()
                self._above += [f"exported {one_line(path)}" for path in event.exported]
                self._above.append(one_line(built_line(event)))
                self._above += [f"tagged {one_line(tag)}" for tag in event.tags]
                self._running.clear()
            case Failed():
                self._above += self._failed(event.step, event.time)
                self._running.clear()
                self._tell_findings()
                self._above += failure_lines(event.failure, ci=self._ci)
            case ShellOpened():
                if event.failure is not None:
                    self._above += self._failed(event.step, event.time)
                    self._above += failure_lines(event.failure, ci=self._ci)
            case StepMissed() | ShellEnded() | Checked() | Pulled() | Pushed() | Described() | Reads():
                pass
            case _ as unreachable:
                assert_never(unreachable)

    def _failed(self, step: int, time: float) -> list[str]:
        if step < 0:
            return []
        line = self._timed(f" => ERROR {self._label(step)}", max(0.0, time - self._running.get(step, time)))
        return [self._paint(_RED, line)]

    def _tell_findings(self) -> None:
        self._above += [self._paint(_YELLOW, line) for line in finding_lines(self._findings)]
        self._findings = []

    def _forget(self, step: int) -> None:
        self._lines.flush(step)
        self._logs.pop(step, None)
        for key in [key for key in self._transfers if key[0] == step]:
            del self._transfers[key]

    def _draw(self, *, live: bool) -> None:
        width, height = self._size()
        lines = self._live(width, height) if live else []
        if not self._above and not lines and not self._drawn:
            return
        up = f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""
        above = [without_commands(line) for line in self._above] if self._ci else self._above
        text = "".join(f"{line}\n" for line in above) + "".join(f"{line}\n" for line in lines)
        self._above, self._drawn = [], len(lines)
        self._out.write(up + text)
        self._out.flush()

    def _live(self, width: int, height: int) -> list[str]:
        now = time()
        total = f"/{len(self._steps)}" if self._steps else ""
        # Images may be pulled before there is a plan, or without one
        doing = "Building" if self._steps or self._running else "Transferring"
        lines = [_cut(f"[+] {doing} {now - self._began:.1f}s ({self._finished}{total})", width)]
        # However many steps run, the view must fit on the screen
        room = max(1, height - 2)
        logs = min(LOG_LINES, max(0, room // max(1, len(self._running)) - 1))
        for key, (event, started) in self._transfers.items():
            if key[0] not in self._running:
                lines.append(_cut(" => " + _bar(event, now - started, width - 4), width))
        for step, started in self._running.items():
            lines.append(self._timed(f" => {self._label(step)}", now - started))
            for key, (event, since) in self._transfers.items():
                if key[0] == step:
                    lines.append(_cut(" => => " + _bar(event, now - since, width - 7), width))
            tail = list(self._logs.get(step, ()))[-logs:] if logs else []
            lines += [self._paint(_DIM, _cut(f" => => # {line.expandtabs()}", width)) for line in tail]
        return lines[:room]

    def _label(self, step: int) -> str:
        return one_line(self._steps[step].label) if 0 <= step < len(self._steps) else "(unknown step)"

    def _timed(self, text: str, seconds: float) -> str:
        width, _ = self._size()
        took = f"{seconds:.1f}s"
        text = _cut(text, width - len(took) - 1)
        return text + " " * max(1, width - _width(text) - len(took)) + took

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours else text

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            return 80, 24
        # The last column is left free: some terminals wrap as soon as it is written
        return max(20, (size.columns or 80) - 1), max(4, size.lines or 24)


def _bar(event: Transfer, elapsed: float, width: int) -> str:
    """Return a byte count as a bar; tqdm is imported at the first one."""
    from tqdm import tqdm

    bar: str = tqdm.format_meter(
        event.current,
        event.total or None,
        elapsed,
        ncols=max(20, width),
        prefix=one_line(event.label),
        unit="B",
        unit_scale=True,
        ascii=True,
    )
    return bar


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _cut(text: str, width: int) -> str:
    """Return `text` shortened to that many columns."""
    if _width(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += _width(char)
        if used >= width:
            break
        kept.append(char)
    return "".join(kept) + ("…" if width > 1 else "")
