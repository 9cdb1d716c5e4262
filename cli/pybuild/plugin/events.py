"""What the engine tells while it works, shown as all commands show it, and how a command ends after it."""

import os
import sys
from collections.abc import Generator
from contextlib import closing

from pybuild.api.events import Event, Failed, is_last
from pybuild.errors import ExitCode, PybuildError, UsageError

KINDS = ("auto", "tty", "plain", "json")
"""What `--progress` may say."""


def check_progress(kind: str) -> None:
    """Raise UsageError for a kind of progress that nobody knows."""
    if kind not in KINDS:
        raise UsageError(f"unknown kind of progress: {kind}", f"known: {', '.join(KINDS)}")


def show_events(events: Generator[Event, None, None], progress: str = "auto", *, quiet: bool = False) -> Event:
    """Show on standard error what is done, to its end, and return the last event; a `Failed` is shown like any other.

    `progress` is auto, tty, plain or json (an event a line); with `quiet` nothing but a failure is shown. Whoever
    breaks it off cancels what is done. Raises UsageError for another `progress`.
    """
    from pybuild.progress import open_renderer

    check_progress(progress)
    mode = "quiet" if quiet and progress != "json" else progress
    last: Event | None = None
    with closing(events), closing(open_renderer(mode, sys.stderr)) as renderer:
        for event in events:
            last = event
            renderer.show(event)
    if last is None or not is_last(last):
        raise PybuildError("what was asked for ended without a result")
    return last


def exit_code_of(failed: Failed) -> int:
    """Return the exit code for a failure that was shown; of a bug in pybuild it is told where the details are."""
    trace = failed.failure.traceback
    if trace and os.environ.get("PYBUILD_DEBUG", "") not in ("", "0"):
        from pybuild.progress.escape import escape

        sys.stderr.write(escape(trace))
    if failed.failure.exit_code == ExitCode.BUG:
        from pybuild.engine.buglog import write_bug_log

        sys.stderr.write(f"hint: the details are in {write_bug_log(trace)}\n")
    return failed.failure.exit_code
