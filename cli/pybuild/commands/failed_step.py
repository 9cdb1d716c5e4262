"""A step that failed while its user is there: a shell in its tree, and the question how to go on."""

import sys
from contextlib import suppress

from pybuild.api.events import ABORT, ACCEPT, AGAIN, RETRY, ShellEnded, ShellOpened
from pybuild.client.backend import Backend
from pybuild.errors import NotFoundError

_QUESTION = """\
  r  run the step again, on the tree as it is now
  a  accept the tree as the step's result
  s  open the shell again
  q  give up; the tree is kept
how to go on? """
_ANSWERS = {"r": RETRY, "a": ACCEPT, "s": AGAIN, "q": ABORT}


def attend(event: ShellOpened | ShellEnded, backend: Backend) -> None:
    """Let the user at the shell that was opened; ask how to go on when it has ended."""
    if isinstance(event, ShellOpened):
        from pybuild.client.relay import visit_terminal

        try:
            fds = backend.attach(event.token)
        except NotFoundError:
            # The build has just ended for another reason, and its last event says for which
            return
        _tell("a shell in the step's tree, `exit` leaves it:\n")
        visit_terminal(fds, 0, 2)
        return
    if event.message:
        from pybuild.progress.escape import one_line

        _tell(f"no shell: {one_line(event.message)}; `--shell-command` names another\n")
    decision = _ask()
    with suppress(NotFoundError):
        backend.decide(event.token, decision)


def _ask() -> str:
    try:
        _tell(_QUESTION)
        while line := sys.stdin.readline():
            for answer, decision in _ANSWERS.items():
                if line.strip().lower() in (answer, decision):
                    return decision
            _tell("r, a, s or q: ")
    except KeyboardInterrupt:
        # As with other questions: the build has not been told anything yet
        pass
    _tell("\n")
    return ABORT


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
