"""Plugins that are executables: `pybuild-NAME`, in any language and with what it needs of its own.

Asked with the single word `--pybuild-plugin`, one answers with a line of JSON: `{"api": 1, "name": NAME, "version":
VERSION, "summary": TEXT}`. Called, it takes our place, with `PYBUILD_API`, `PYBUILD_BIN` and `PYBUILD_SOCK` in its
environment.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pybuild.plugin.errors import PluginError
from pybuild.plugin.found import API_VERSION, EXECUTABLE, PREFIX, Found

QUESTION = "--pybuild-plugin"
SECONDS = 2.0
"""How long one may take to say who it is."""

_MAX_ANSWER = 64 * 1024  # bytes


def ask(paths: Sequence[str]) -> dict[str, Found]:
    """Ask executables who they are, all at once; one that does not answer well has a problem."""
    import subprocess
    import time

    started: dict[str, subprocess.Popen[bytes] | str] = {}
    for path in paths:
        try:
            started[path] = subprocess.Popen(
                [path, QUESTION],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            started[path] = f"cannot be run: {error.strerror}"
    end = time.monotonic() + SECONDS
    return {path: _answer(path, process, end) for path, process in started.items()}


def _answer(path: str, process: Any, end: float) -> Found:
    import signal
    import subprocess
    import time

    name = os.path.basename(path)[len(PREFIX) :]
    plain = Found(name, EXECUTABLE, path, "", os.path.basename(path), "?", "")
    if isinstance(process, str):
        return plain._replace(problem=process)
    try:
        out, _ = process.communicate(timeout=max(0.01, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        # Its session is its own, so that what it started ends with it
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
        return plain._replace(problem=f"did not answer {QUESTION} within {SECONDS:g} s")
    if process.returncode:
        return plain._replace(problem=f"answered {QUESTION} with exit code {process.returncode}")
    return _read(plain, out[:_MAX_ANSWER])


def _read(plain: Found, out: bytes) -> Found:
    import json

    try:
        answer = json.loads(out)
        api, name = answer["api"], str(answer["name"])
        known = plain._replace(version=str(answer.get("version", "?")), summary=str(answer.get("summary", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return plain._replace(problem=f"its answer to {QUESTION} cannot be read")
    if name != plain.name:
        return known._replace(problem=f"calls itself {name}")
    if api != API_VERSION:
        return known._replace(problem=f"is for version {api} of the interface, this is {API_VERSION}")
    return known


def execute(plugin: Found, words: Sequence[str]) -> NoReturn:
    """Become the plugin; raise PluginError when it cannot be run."""
    import signal

    sys.stdout.flush()
    sys.stderr.flush()
    # Python has these two otherwise than programs expect
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execve(plugin.target, [plugin.target, *words], environment())
    except OSError as error:
        raise PluginError(plugin, f"cannot be run: {error.strerror}") from error


def environment() -> dict[str, str]:
    """Return the environment of an executable."""
    from pybuild.client.start import place

    found = {**os.environ, "PYBUILD_API": str(API_VERSION), "PYBUILD_SOCK": str(place().socket)}
    program = program_path()
    if program:
        found["PYBUILD_BIN"] = program
    return found


def program_path() -> str:
    """Return the path of this program, "" when it has none that could be executed."""
    beside = os.path.join(os.path.dirname(sys.executable), "pybuild")
    for path in (os.path.abspath(sys.argv[0]), beside):
        if os.path.isfile(path) and os.access(path, os.X_OK) and not path.endswith(".py"):
            return path
    return ""
