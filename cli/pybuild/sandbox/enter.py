"""The first thing a worker does, and imports for it next to nothing: its parent maps ids while it loads the rest."""

import os

from pybuild.sandbox import syscalls


def enter(control: int) -> bool:
    """Make the namespaces; `control` is the descriptor of the control socket. Tell whether it was allowed.

    The parent is told either way.
    """
    os.set_inheritable(control, False)
    # Whatever else was left open on the way here
    if control > 3:
        syscalls.close_range(3, control - 1)
    syscalls.close_range(max(control + 1, 3))
    step = "make a user namespace"
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        step = "make a mount namespace"
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except OSError as error:
        os.write(control, f"refused {error.errno} {step}".encode())
        return False
    os.write(control, b"entered")
    return True
