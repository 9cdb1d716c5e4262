"""From the arguments to the exit status: the one boundary where errors become messages.

0 done · 1 the build or request failed · 2 usage · 3 a bug in pybuild, with a log file named · 70 a plugin
that cannot be used or has a bug · 130 interrupted
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from pybuild.commands.interrupts import hear_signals
from pybuild.errors import ExitCode, PybuildError, UsageError


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. Nothing is raised but what no program can handle."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # Names of files and labels hold what an ASCII locale or UTF-8 itself cannot
            reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return tell(PybuildError("interrupted"), ExitCode.INTERRUPTED)
    except PybuildError as error:
        return tell(error, error.exit_code)
    except BrokenPipeError:
        # The reader of our output has seen enough; Python would complain once more when it flushes at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.FAILED
    except RecursionError as error:
        return _bug(error, arguments)
    except Exception as error:
        if hasattr(error, "format_message"):
            return tell(_usage_error(error), ExitCode.USAGE)
        from pybuild.plugin.load import blame

        plugins = blame(error)
        return _bug(error, arguments) if plugins is None else tell(plugins, plugins.exit_code)


def _run(arguments: list[str]) -> int:
    if not sys.platform.startswith("linux"):
        raise UsageError(
            f"pybuild runs on Linux only, this is {sys.platform}",
            "it builds with Linux namespaces; use it in a Linux virtual machine",
        )
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    hear_signals()
    result = _result(arguments)
    sys.stdout.flush()
    return result if isinstance(result, int) else ExitCode.OK


def _result(arguments: list[str]) -> object:
    """Return what the command returned."""
    from types import FunctionType

    from pybuild.commands.quick import parse, with_bare_values
    from pybuild.commands.table import find

    command, words = find(arguments)
    values = parse(command, words) if isinstance(command, FunctionType) else None
    if values is None or command is None:
        from pybuild.commands.group import make_root

        if isinstance(command, FunctionType):
            arguments = [*arguments[: len(arguments) - len(words)], *with_bare_values(command, words)]
        return make_root().main(args=arguments, prog_name="pybuild", standalone_mode=False)
    if values.pop("debug", False):
        os.environ["PYBUILD_DEBUG"] = "1"
    host = values.pop("host", None)
    if host is not None:
        choose_host(host)
    return command(**values)


def choose_host(host: str) -> None:
    """Have the daemon of `--host` asked; what the environment says of daemons counts no more."""
    os.environ["PYBUILD_HOST"] = host
    os.environ.pop("PYBUILD_INLINE", None)


def _interrupt(number: int, frame: object) -> None:
    """Being asked to end is Ctrl-C by other means: the build is cancelled, nothing is left behind."""
    raise KeyboardInterrupt


def _usage_error(error: Any) -> UsageError:
    """Return typer's complaint in our own form. Its classes are private, so they are known by their shape only."""
    context: Any = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "pybuild")
    possible: Sequence[str] = getattr(error, "possibilities", None) or ()
    # NoSuchOption adds what is possible to its message; we put it into the hint
    text: str = error.message if possible else error.format_message()
    text = " ".join(text.split()).rstrip(".")
    text, suggests, near = text.partition(". Did you mean ")
    text = text[:1].lower() + text[1:]
    if suggests:
        return UsageError(text, "did you mean " + near.replace("'", "`"))
    if possible:
        return UsageError(text, f"did you mean {' or '.join(f'`{name}`' for name in sorted(possible)[:3])}?")
    return UsageError(text, f"see `{command} --help`")


def tell(error: PybuildError, status: int) -> int:
    """Write an error to standard error, escaped, and return `status`."""
    from pybuild.api.events import Failure
    from pybuild.progress import in_ci
    from pybuild.progress.failure import failure_lines

    if _debugging():
        _write_traceback(error)
    remote_trace: str = getattr(error, "traceback", "")
    if status == ExitCode.BUG and remote_trace:
        # A bug of the daemon's side
        from pybuild.engine.buglog import write_bug_log

        error.hint = f"this is a bug in pybuild; the details are in {write_bug_log(remote_trace)}"
    failure = Failure(type(error).__name__, error.message, error.hint)
    _write("\n".join(failure_lines(failure, ci=in_ci())) + "\n")
    return int(status)


def _bug(error: BaseException, arguments: Sequence[str]) -> int:
    import traceback

    if _debugging():
        _write_traceback(error)
    # Arguments may hold secrets (--build-arg), so only the command is kept
    command = next((word for word in arguments if not word.startswith("-")), "")
    trace = "".join(traceback.format_exception(error))
    from pybuild.engine.buglog import write_bug_log
    from pybuild.progress.escape import one_line

    path = write_bug_log(f"command: {command}\n{trace}")

    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    _write(f"error: unexpected {one_line(what)[:500]}\nhint: this is a bug in pybuild; the details are in {path}\n")
    return ExitCode.BUG


def _debugging() -> bool:
    return os.environ.get("PYBUILD_DEBUG", "") not in ("", "0")


def _write_traceback(error: BaseException) -> None:
    import traceback

    from pybuild.progress.escape import escape

    remote: str = getattr(error, "traceback", "")
    _write(escape("".join(traceback.format_exception(error)) + remote))


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        # Nobody to tell it to
        pass
