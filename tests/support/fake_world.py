"""A runtime directory and a store of their own, and daemons on the fake engine in them."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pybuild.client import start
from pybuild.client.remote import Remote

TESTS = Path(__file__).parents[1]
CLI = TESTS.parent / "cli"


class World:
    """Where the program under test lives; this process sees it through its environment."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.runtime, self.store = base / "r", base / "s"
        self.socket, self.log = self.runtime / "pybuild.sock", self.runtime / "daemon.log"

    def connect(self) -> Remote:
        """Return a connection to the daemon, started when absent."""
        return Remote.connect()

    def pid(self) -> int:
        """Return the pid of the running daemon."""
        remote = Remote.running()
        assert remote is not None
        with remote:
            return int(remote.status()["pid"])

    def kill(self) -> None:
        """Kill the daemon without a chance to clean up."""
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def wait(self, what: Path, seconds: float = 10) -> None:
        """Wait for a file to appear."""
        wait_for(what.exists, seconds)

    def close(self) -> None:
        """Stop the daemon and reap it."""
        remote = Remote.running() if self.runtime.exists() else None
        if remote is not None:
            with remote:
                remote.stop(now=True)
        assert start.wait_for_end(start.Place(self.runtime), 20)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break


def wait_for(condition: "object", seconds: float = 10) -> None:
    """Wait until `condition()` holds."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


@contextmanager
def fake_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Give a world; its daemon is stopped at the end."""
    # Not below pytest's own directory: its name is too long for a unix socket
    base = Path(tempfile.mkdtemp(prefix="pb-"))
    world = World(base)
    for name in [name for name in os.environ if name.startswith(("PYBUILD_", "CI"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setenv("PYBUILD_RUNTIME_DIR", str(world.runtime))
    monkeypatch.setenv("PYBUILD_STORE", str(world.store))
    # The fake engine is in the daemon
    monkeypatch.setenv("PYBUILD_INLINE", "0")
    monkeypatch.setenv("PYBUILD_CONFIG", str(base / "config.toml"))
    monkeypatch.setenv("PYTHONPATH", f"{CLI}{os.pathsep}{TESTS}")
    monkeypatch.setattr(start, "daemon_command", lambda: [sys.executable, "-P", "-m", "support.fake_engine"])
    try:
        yield world
    finally:
        # A test may have put other values in their place
        monkeypatch.setenv("PYBUILD_RUNTIME_DIR", str(world.runtime))
        world.close()
        shutil.rmtree(base)
