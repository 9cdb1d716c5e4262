"""The program on a real terminal: a pseudo terminal that a test types into and reads from."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from support import processes
from support.program import COMMAND, Pybuild

SECONDS = 30.0
"""How long a test waits for what is to appear."""


class Terminal:
    """A program that leads a session on a terminal of its own; use it with `with`."""

    def __init__(self, program: Pybuild, *args: str | Path, env: dict[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, args)],
            env={**program.env, "TERM": "vt100", **(env or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        processes.waited_for.add(self.process.pid)
        self.shown = ""
        self._seen = 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        processes.waited_for.discard(self.process.pid)
        os.close(self._slave)
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Give the window another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str, seconds: float = SECONDS) -> "re.Match[str]":
        """Wait for what matches to be shown after what was expected last."""
        end = time.monotonic() + seconds
        while True:
            match = re.compile(pattern, re.MULTILINE).search(self.shown, self._seen)
            if match:
                self._seen = match.end()
                return match
            assert self._read(end - time.monotonic()), f"never shown: {pattern}\n{self.shown[self._seen :]!r}"

    def finish(self, status: int | None = 0, seconds: float = SECONDS) -> str:
        """Wait for the program's end and return all that was shown; the terminal must be as it was."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            self._read(min(0.05, end - time.monotonic()))
            assert time.monotonic() < end, f"hangs: {self.shown[self._seen :]!r}"
        while self._read(0):
            pass
        now = termios.tcgetattr(self._slave)
        assert now == self.before, f"{now} was {self.before}"
        assert "Traceback" not in self.shown, self.shown
        assert status in (None, self.process.returncode), f"{self.process.returncode}: {self.shown}"
        return self.shown

    def hang_up(self) -> None:
        """Do what closing the window does."""
        os.killpg(self.process.pid, signal.SIGHUP)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], max(0.0, seconds))[0]:
            return False
        # The slave is open here too, so there is no end
        self.shown += os.read(self._master, 65536).decode(errors="replace")
        return True
