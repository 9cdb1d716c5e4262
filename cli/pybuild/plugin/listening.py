"""Consumers of a build's events (`pybuild.events`), each in a process of its own.

One is a function that takes an iterator of events, which are what `--progress=json` tells (progress/SCHEMA.md). A build
never waits for it: one that is slow, or gone, is told of and hears no more.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from pybuild.api.events import Event, to_json
from pybuild.plugin.errors import PluginError
from pybuild.plugin.found import EVENTS, Found, usable

MAX_BEHIND = 4 << 20
"""Bytes that a listener may be behind with."""

SECONDS = 2.0
"""How long listeners have for the rest when the build has ended."""


class Listeners:
    """All that listen to one build."""

    def __init__(self) -> None:
        self._listeners = [_Listener(plugin) for plugin in usable((EVENTS,)).values() if not plugin.problem]

    def tell(self, event: Event) -> None:
        """Tell an event to all; never waits."""
        if self._listeners:
            line = json.dumps(to_json(event), separators=(",", ":")).encode() + b"\n"
            for listener in self._listeners:
                listener.tell(line)

    def close(self) -> None:
        """Give them the rest and a little time, and say which were dropped."""
        import time

        end = time.monotonic() + SECONDS
        for listener in self._listeners:
            listener.finish(end)


class _Listener:
    def __init__(self, plugin: Found) -> None:
        import subprocess

        from pybuild.plugin.processes import child_command

        self._plugin = plugin
        self._behind = bytearray()
        # What one prints would go right through the lines of the terminal
        silent = None if os.environ.get("PYBUILD_DEBUG") else subprocess.DEVNULL
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            child_command("events", plugin.name), stdin=pipe, stdout=pipe, stderr=silent, start_new_session=True
        )
        assert self._process.stdin is not None
        self._fd = self._process.stdin.fileno()
        os.set_blocking(self._fd, False)
        self._dropped = ""

    def tell(self, line: bytes) -> None:
        if self._dropped:
            return
        self._behind += line
        self._write()
        if len(self._behind) > MAX_BEHIND:
            self._drop("does not keep up with the build")

    def _write(self) -> None:
        try:
            while self._behind:
                del self._behind[: os.write(self._fd, self._behind[:65536])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It has heard enough, or failed: its answer tells
            self._behind.clear()

    def _drop(self, why: str) -> None:
        import signal

        self._dropped = why
        self._behind.clear()
        os.killpg(self._process.pid, signal.SIGKILL)

    def finish(self, end: float) -> None:
        import select
        import subprocess
        import time

        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self._behind and (left := end - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self._write()
        try:
            # The non-blocking pipe is empty here, or what is left is given up
            out, _ = self._process.communicate(timeout=max(0.01, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._drop(f"was not done {SECONDS:g} s after the build")
            out, _ = self._process.communicate()
        error = self._dropped or _error_of(out, self._process.returncode)
        if error:
            sys.stderr.write(f"warning: {PluginError(self._plugin, error).message}\n")


def _error_of(out: bytes, status: int) -> str:
    try:
        answer = json.loads(out)
    except ValueError:
        return f"has ended without an answer (exit code {status})"
    return f"has failed: {answer['error']}" if "error" in answer else ""


def answer(listen: Any, given: BinaryIO) -> dict[str, Any]:
    """Let a listener hear what it is given."""
    listen(_events(given))
    return {}


def _events(given: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in given:
        yield json.loads(line)
