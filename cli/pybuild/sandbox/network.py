"""A private network for the RUN steps of a build: the parent's side.

pasta or slirp4netns carries packets between a network namespace of our own and the sockets of this user. The
namespace belongs to the worker, where a holder keeps it (see `holder`); pasta starts out here, as the real user,
slirp4netns in there. Both give the same addresses, forward questions to name servers, and let nothing reach the
loopback services of the host.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from pybuild.sandbox import wire
from pybuild.sandbox.errors import JobFailedError, NetworkError
from pybuild.sandbox.holder import INTERFACE, READY, START_SECONDS
from pybuild.sandbox.resolv import NAME_SERVER
from pybuild.sandbox.worker import Worker

ADDRESS = "10.0.2.100"
GATEWAY = "10.0.2.2"

TUN = "/dev/net/tun"
INSTALL = "install the package `passt` (or `slirp4netns`), or build with `--network=host`"


class Helper(NamedTuple):
    """A program that connects a network namespace."""

    kind: Literal["pasta", "slirp4netns"]
    path: str


def find_helpers(tun: str = TUN) -> list[Helper]:
    """Return the helpers there are, best first; raise NetworkError with the fix when none would work here."""
    import shutil

    found = [Helper(kind, path) for kind in ("pasta", "slirp4netns") if (path := shutil.which(kind))]
    if not found:
        raise NetworkError("neither `pasta` nor `slirp4netns` is installed", INSTALL)
    try:
        os.close(os.open(tun, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise NetworkError(
            f"{tun} cannot be opened: {error.strerror}",
            f"an administrator can do `chmod 666 {tun}` (in a container, pass the device); or build with "
            "`--network=host`",
        ) from error
    return found


class PrivateNetwork:
    """A network that is up. `namespace` is a descriptor for `SandboxSpec`s with the network "private"."""

    def __init__(self, helper: Helper, channel: socket.socket, namespace: int, process: int) -> None:
        self.helper = helper
        self.namespace = namespace
        self._channel = channel
        self._process = process

    def close(self) -> None:
        """End the helper and the holder; the namespace goes with its last sandbox."""
        if self._process >= 0:
            _kill(self._process)
            os.close(self._process)
        # The holder does as much when this process dies without coming here
        self._channel.close()
        os.close(self.namespace)


def open_private(worker: Worker, helpers: Sequence[Helper]) -> PrivateNetwork:
    """Make a private network in the worker by the first helper that can; raise the NetworkError of the last."""
    for number, helper in enumerate(helpers, 1):
        try:
            return _open_private(worker, helper)
        except NetworkError:
            if number == len(helpers):
                raise
    raise NetworkError("there is no helper for a private network", INSTALL)


def _open_private(worker: Worker, helper: Helper) -> PrivateNetwork:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    namespace = process = -1
    try:
        with theirs:
            path = os.fsencode(helper.path) if helper.kind == "slirp4netns" else b""
            holder = worker.call("hold_network", [path], [theirs.fileno()], result=int)
        said, fds = wire.receive_with_fds(ours, 16)
        if said != READY or len(fds) != 1:
            raise JobFailedError("the holder of the private network ended at its start")
        (namespace,) = fds
        if helper.kind == "pasta":
            pid = _start_pasta(helper.path, holder)
            process = os.pidfd_open(pid)
            ours.send(str(pid).encode(), socket.MSG_NOSIGNAL)
    except BaseException as error:
        if process >= 0:
            _kill(process)
            os.close(process)
        if namespace >= 0:
            os.close(namespace)
        ours.close()
        if isinstance(error, OSError):
            raise NetworkError(f"cannot make a private network: {error.strerror}") from error
        raise
    return PrivateNetwork(helper, ours, namespace, process)


def _start_pasta(path: str, holder: int) -> int:
    """Start pasta on the holder's namespace; return its process id when it is ready."""
    import subprocess
    import tempfile

    # Nothing of the host's is forwarded in, and no address leads to its loopback
    closed = ["--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    addresses = ["--address", ADDRESS, "--netmask", "24", "--gateway", GATEWAY, "--dns-forward", NAME_SERVER]
    # As root it would become nobody, who may not enter the namespace
    identity = ["--runas", f"{os.geteuid()}:{os.getegid()}"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="pybuild-") as place, tempfile.TemporaryFile() as errors:
        pid_file = os.path.join(place, "pid")
        words = [path, "--config-net", "--quiet", *closed, *addresses, *identity, "--ns-ifname", INTERFACE]
        words += ["--pid", pid_file, str(holder)]
        try:
            # It goes into the background when it is ready; a pipe for its errors would stay open then
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                timeout=START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NetworkError(f"pasta was not ready within {START_SECONDS:.0f} seconds") from error
        if done.returncode == 0:
            with open(pid_file, encoding="ascii") as file:
                return int(file.read())
        errors.seek(0)
        said = " ".join(errors.read(2000).decode(errors="replace").split())
        raise NetworkError(f"pasta failed: {said or f'status {done.returncode}'}")


def _kill(process: int) -> None:
    import signal

    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)


def host_address() -> str | None:
    """Return the address under which a private network reaches this host's services, None without a route out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            # Sends nothing: the kernel only picks a route (192.0.2.0/24 is documentation, RFC 5737)
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address
