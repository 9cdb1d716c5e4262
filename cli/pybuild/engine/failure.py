"""Exceptions as values: what the command line prints and the daemon sends."""

import traceback

from pybuild.api.events import Failure
from pybuild.dockerfile.errors import DockerfileError
from pybuild.engine.errors import StepError
from pybuild.errors import ExitCode, PybuildError


def failure_of(error: BaseException) -> Failure:
    """Return the failure that `error` stands for; an unexpected one counts as a bug."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, KeyboardInterrupt):
        return Failure("CancelledError", "interrupted", exit_code=ExitCode.INTERRUPTED)
    if isinstance(error, DockerfileError):
        span = error.span
        return Failure(
            kind=type(error).__name__,
            message=error.message,
            hint=error.hint,
            exit_code=error.exit_code,
            file=error.file,
            line=span.start_line if span else 0,
            column=span.column if span else 0,
            length=span.length if span else 0,
            source=error.source,
            traceback=trace,
        )
    if isinstance(error, StepError):
        return Failure(
            kind=type(error).__name__,
            message=error.message,
            hint=error.hint,
            exit_code=error.exit_code,
            file=error.file,
            line=error.line,
            source=error.source,
            log=error.log,
            status=error.status,
            traceback=trace,
            kept=error.kept,
        )
    if isinstance(error, PybuildError):
        return Failure(type(error).__name__, error.message, error.hint, exit_code=error.exit_code, traceback=trace)
    message = f"unexpected {type(error).__name__}: {error}" if str(error) else f"unexpected {type(error).__name__}"
    return Failure(type(error).__name__, message, "this is a bug in pybuild", exit_code=ExitCode.BUG, traceback=trace)
