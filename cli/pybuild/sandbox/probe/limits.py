"""Trials outside of the namespace: control groups, and what a network of one's own takes."""

import os
import shutil

from pybuild.sandbox.probe.trial import Steps

_TREE = "/sys/fs/cgroup"
_OWN = "/proc/self/cgroup"
_CONTROLLERS = ("memory", "pids")


def control_groups(steps: Steps, tree: str = _TREE, own: str = _OWN) -> str:
    """Make a control group below this process's own, as `own` tells it, in the file systems below `tree`."""
    steps("read the own control group")
    with open(own, encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.rstrip("\n").split(":", 2) for line in file]
    for _, names, path in rows:
        if not names and os.path.exists(f"{tree}/cgroup.controllers"):
            place = tree + path
            steps("open cgroup.subtree_control for writing")
            os.close(os.open(f"{place}/cgroup.subtree_control", os.O_WRONLY | os.O_CLOEXEC))
            _make_group(steps, place)
            with open(f"{place}/cgroup.controllers", encoding="ascii") as file:
                return f"version 2: {file.read().strip() or 'no controllers'}"
    # Version 1: a hierarchy for each controller
    for name in _CONTROLLERS:
        for _, names, path in rows:
            if name in names.split(","):
                place = f"{tree}/{names}" if os.path.isdir(f"{tree}/{names}") else f"{tree}/{name}"
                _make_group(steps, place + path)
                break
        else:
            steps(f"find the controller `{name}`")
            raise OSError(0, "it is not mounted")
    return f"version 1: {' '.join(_CONTROLLERS)}"


def _make_group(steps: Steps, place: str) -> None:
    steps(f"make a control group in {place}")
    group = f"{place}/pybuild-probe-{os.getpid()}"
    os.mkdir(group)
    os.rmdir(group)


def tunnel(steps: Steps) -> None:
    """Open the device that a user-mode network needs."""
    steps("open /dev/net/tun")
    os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))


def network_helper() -> str:
    """Return the path of pasta or slirp4netns, "" when neither is installed."""
    return shutil.which("pasta") or shutil.which("slirp4netns") or ""
