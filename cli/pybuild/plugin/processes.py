"""Processes in which code of plugins runs that is not called as a command: `_child plugin ROLE NAME`."""

import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from pybuild.errors import PybuildError
from pybuild.plugin.found import EVENTS, EXPORTER, LINTER, usable

ROLES = {"lint": LINTER, "export": EXPORTER, "events": EVENTS}


def child_command(role: str, name: str) -> list[str]:
    """Return the command of a process for the plugin of that name."""
    words = ["_child", "plugin", role, name]
    if getattr(sys, "frozen", False):
        return [sys.executable, *words]
    # -P: without it `-m` would look for modules in the working directory, which is a build context as a rule
    return [sys.executable, "-P", "-m", "pybuild", *words]


def serve(role: str, name: str) -> int:
    """Be the process of a plugin: read from standard input, write an answer in JSON, return the exit status."""
    import json

    from pybuild.plugin.load import imported

    answer_to = os.dup(1)
    # What it prints must not get into the answer
    os.dup2(2, 1)
    try:
        answer = _work(role)(imported(usable((ROLES[role],))[name]), sys.stdin.buffer)
    except PybuildError as error:
        answer = {"error": error.message, "hint": error.hint}
    except (Exception, SystemExit) as error:
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    with open(answer_to, "wb") as out:
        out.write(json.dumps(answer).encode())
    return 1 if "error" in answer else 0


def _work(role: str) -> Callable[[Any, BinaryIO], dict[str, Any]]:
    from importlib import import_module

    module = {"lint": "linting", "export": "exporting", "events": "listening"}[role]
    found: Callable[[Any, BinaryIO], dict[str, Any]] = import_module(f"pybuild.plugin.{module}").answer
    return found
