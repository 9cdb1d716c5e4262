"""What can go wrong while a plan is solved.

PybuildError
└── StepError             a step failed; carries its place in the Dockerfile
    ├── RunFailedError    the command of a RUN ended with another status than 0
    └── BuildTimeoutError the build, or a step of it, took longer than it may
"""

from pybuild.errors import PybuildError


class StepError(PybuildError):
    """A step that failed: `file` and `line` place it, `source` is the instruction, `step` its number shown.

    `log` are the last lines of a RUN, `status` its exit status (128 + signal when killed), -1 when there is none.
    `kept` is the name of its tree when that was kept.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        file: str = "",
        line: int = 0,
        source: str = "",
        step: int = -1,
        log: tuple[str, ...] = (),
        status: int = -1,
    ) -> None:
        super().__init__(message, hint)
        self.file = file
        self.line = line
        self.source = source
        self.step = step
        self.log = log
        self.status = status
        self.kept = ""


class RunFailedError(StepError):
    """The command of a RUN ended with another status than 0."""


class BuildTimeoutError(StepError):
    """The build, or a step of it, took longer than it may; without a line when no step is to blame."""
