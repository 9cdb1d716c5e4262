"""The program in a world of its own: as a process, or in that of the tests."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

SECONDS = 300
"""How long a program may take."""


class Ended(NamedTuple):
    """How a program ended."""

    status: int
    out: str
    err: str


class Program:
    """The program in a world of its own; `env` is its environment."""

    def __init__(self, base: Path, plugins: Path) -> None:
        self.base = base
        for name in ("home", "runtime"):
            (base / name).mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYBUILD_", "XDG_", "CI"))}
        self.env = {
            **kept,
            "HOME": str(base / "home"),
            "PYBUILD_STORE": str(base / "store"),
            "PYBUILD_RUNTIME_DIR": str(base / "runtime"),
            "PYBUILD_INLINE": "1",
            "PYBUILD_PLUGIN_PATH": str(plugins),
        }

    def __call__(self, *words: str | Path, status: int = 0, stdin: str = "", cwd: Path | None = None) -> Ended:
        """Run a command to its end, expecting `status`."""
        ended = self._run([*map(str, words)], stdin, cwd)
        assert ended.status == status, f"exit code {ended.status}: {' '.join(map(str, words))}\n{ended.err}"
        return ended

    def _run(self, words: list[str], stdin: str, cwd: Path | None) -> Ended:
        binary = os.environ.get("PYBUILD_TEST_PROGRAM")
        done = subprocess.run(
            [*([binary] if binary else [sys.executable, "-P", "-m", "pybuild"]), *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env,
            cwd=cwd,
            timeout=SECONDS,
        )
        return Ended(done.returncode, done.stdout, done.stderr)


class InProcess(Program):
    """The same in the process that calls it, in the world of another one."""

    def __init__(self, other: Program) -> None:
        self.base, self.env = other.base, other.env

    def _run(self, words: list[str], stdin: str, cwd: Path | None) -> Ended:
        if os.environ.get("PYBUILD_TEST_PROGRAM"):
            return super()._run(words, stdin, cwd)
        from pybuild.commands import app
        from pybuild.plugin import load

        out, err = _text(), _text()
        streams = patch.multiple(sys, stdin=_text(stdin), stdout=out, stderr=err, argv=["pybuild", *words])
        world = patch.dict(os.environ, self.env, clear=True)
        # What wakes a waiting main thread stays for the life of a process, and an executable takes its place
        own = patch.object(app, "hear_signals"), patch.object(os, "execve", _no_executable)
        with _as_it_was(cwd), streams, world, own[0], own[1], patch.object(load, "_loaded", []):
            try:
                status = app.run(words)
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
        return Ended(status, _written(out), _written(err))


@contextmanager
def _as_it_was(cwd: Path | None) -> Iterator[None]:
    """Work in a directory, and give back that, the signals and the way of imports at the end."""
    before, path = os.getcwd(), [*sys.path]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        os.chdir(cwd or before)
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _no_executable(path: str, *_: Any) -> None:
    pytest.fail(f"an executable takes the place of the process, use the fixture `pybuild` for it: {path}")


def _text(given: str = "") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8", newline="")


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(errors="replace")
