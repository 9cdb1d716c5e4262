"""Nothing but the failure."""

from typing import TextIO

from pybuild.api.events import Event, Failed, ShellOpened
from pybuild.progress.failure import failure_lines


class QuietRenderer:
    """Shows a failure and nothing else."""

    def __init__(self, out: TextIO, *, ci: bool = False) -> None:
        self._out, self._ci = out, ci

    def show(self, event: Event) -> None:
        """Write the failure, if it is one."""
        if isinstance(event, Failed | ShellOpened) and event.failure is not None:
            self._out.write("\n".join(failure_lines(event.failure, ci=self._ci)) + "\n")
            self._out.flush()

    def close(self) -> None:
        """Nothing is held back."""
