"""The daemon of another machine through the system's ssh, as the user has set that up.

The far side runs `pybuild daemon dial-stdio`, which starts a daemon there when none runs. Its standard streams are the
connection.
"""

import os
import shlex
import shutil
import socket
import subprocess

from pybuild.client.errors import DaemonError
from pybuild.client.hosts import Host

CONNECT_SECONDS = 30
END_SECONDS = 5.0
"""How long ssh may take to end once its connection is closed."""

_FAILED, _NOT_FOUND = 255, 127
_MAX_TOLD = 1 << 16


def command_line(host: Host) -> list[str]:
    """Return the arguments of ssh for a host; the last one is for the far side's shell."""
    told = ["-o", f"ConnectTimeout={CONNECT_SECONDS}", "-T"]
    told += ["-l", host.user] if host.user else []
    told += ["-p", str(host.port)] if host.port else []
    words = ["daemon", "dial-stdio", *(["--socket", host.path] if host.path else [])]
    # `command` may hold several words: who writes the settings means the shell there
    return ["ssh", *told, "--", host.machine, f"{host.command} {shlex.join(words)}"]


class Ssh:
    """A link through a process of ssh."""

    def __init__(self, host: Host) -> None:
        """Start ssh; raise DaemonError where there is none. Whether it comes through shows in the first answer."""
        self._host = host
        self._told = os.memfd_create("ssh", os.MFD_CLOEXEC)
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                end = theirs.fileno()
                self._process = subprocess.Popen(
                    command_line(host), executable=_find(), stdin=end, stdout=end, stderr=self._told
                )
        except OSError as error:
            self.socket.close()
            os.close(self._told)
            raise DaemonError(f"cannot run ssh: {error.strerror}") from error
        except DaemonError:
            self.socket.close()
            os.close(self._told)
            raise

    def why(self) -> DaemonError | None:
        """Wait for ssh to end and tell what it, or the far side, said last."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        lines = os.pread(self._told, _MAX_TOLD, 0).decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        if status == _FAILED:
            last = f": {said[-1]}" if said else ""
            return DaemonError(f"cannot reach {self._host.url}{last}", f"try `ssh {self._host.machine} true`")
        if status == _NOT_FOUND:
            return DaemonError(
                f"there is no pybuild on {self._host.machine}: {said[-1] if said else self._host.command}",
                "install it there, or give its path as `command` in [hosts.NAME] of the configuration",
            )
        told = next((line for line in said if line.startswith("error: ")), said[-1] if said else "")
        return DaemonError(f"on {self._host.machine}: {told.removeprefix('error: ')}") if status and told else None

    def close(self) -> None:
        if self._told < 0:
            return
        self.socket.close()
        try:
            # A master of other connections is not killed: it ends when it will
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
        os.close(self._told)
        self._told = -1


def _find() -> str:
    """Return the path of ssh, from directories of PATH that do not depend on where we stand; raise DaemonError."""
    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(place)]
    found = shutil.which("ssh", path=os.pathsep.join(places))
    if found is None:
        raise DaemonError("ssh is not there, which --host ssh:// takes", "install openssh-client")
    return found
