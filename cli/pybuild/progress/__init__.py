"""Events of a build to a terminal, to plain lines, or to JSON lines; failures as text.

`open_renderer` picks one by name. All write to the stream they are given (the CLI gives standard error)
and escape what comes from outside: output of commands, labels, paths, messages. The JSON lines are
described in SCHEMA.md beside this file.
"""

import os
from collections.abc import Mapping
from typing import Protocol, TextIO

from pybuild.api.events import Event

MODES = ("auto", "tty", "plain", "json", "quiet")


class Renderer(Protocol):
    """Shows events one after the other; `close` leaves the terminal as it should be, and may come twice."""

    def show(self, event: Event) -> None:
        """Show one event."""
        ...

    def close(self) -> None:
        """Write what is held back and stop."""
        ...


def open_renderer(mode: str, out: TextIO, *, environ: Mapping[str, str] = os.environ) -> Renderer:
    """Return the renderer called `mode`; "auto" is "tty" when `out` is a capable terminal, else "plain".

    Each is imported only when it is asked for: the start of a cached build counts.
    """
    if mode == "auto":
        mode = "tty" if out.isatty() and environ.get("TERM", "dumb") != "dumb" else "plain"
    ci = in_ci(environ)
    if mode == "tty":
        from pybuild.progress.tty import TtyRenderer

        return TtyRenderer(out, ci=ci)
    if mode == "plain":
        from pybuild.progress.plain import PlainRenderer

        return PlainRenderer(out, ci=ci)
    if mode == "json":
        from pybuild.progress.jsonlines import JsonRenderer

        return JsonRenderer(out)
    if mode == "quiet":
        from pybuild.progress.quiet import QuietRenderer

        return QuietRenderer(out, ci=ci)
    raise ValueError(f"unknown progress mode: {mode}")


def in_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether lines are read by a CI service that obeys commands written in them."""
    return environ.get("CI", "").lower() not in ("", "0", "false") or "TF_BUILD" in environ
