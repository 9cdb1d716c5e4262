"""The first thing a worker does, and imports for it next to nothing: its parent maps ids while it loads the rest."""

import os

from pybuild.sandbox import syscalls


def enter(control: int, footing: str = "namespaces") -> bool:
    """Make the namespaces of a footing; `control` is the descriptor of the control socket. Tell whether it was allowed.

    The parent is told either way.
    """
    os.set_inheritable(control, False)
    # Whatever else was left open on the way here
    if control > 3:
        syscalls.close_range(3, control - 1)
    syscalls.close_range(max(control + 1, 3))
    step = "make a user namespace"
    try:
        if footing in ("namespaces", "ids"):
            syscalls.unshare(syscalls.CLONE_NEWUSER)
        if footing == "namespaces":
            step = "make a mount namespace"
            syscalls.unshare(syscalls.CLONE_NEWNS)
            step = "separate the mount namespace"
            syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_SLAVE)
            # All mounts of a sandbox are made by these calls, which some kernels and filters lack or refuse
            step = "make a file system to mount"
            os.close(syscalls.fsopen(b"tmpfs"))
        else:
            # To where it is: that changes nothing, and tells whether it may
            step = "change the root directory"
            os.chroot("/")
    except OSError as error:
        os.write(control, f"refused {error.errno} {step}".encode())
        return False
    os.write(control, b"entered")
    return True
