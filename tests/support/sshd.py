"""A real sshd of this user on a port of loopback, and the ssh that knows it and nothing of the user's."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from support.fake_world import wait_for

SSHD = shutil.which("sshd", path=os.defpath + ":/usr/sbin:/usr/local/sbin") or ""


@dataclass(frozen=True)
class Server:
    """`bin` holds an `ssh` that is to come first in PATH; `log` is what the server says."""

    port: int
    bin: Path
    log: Path

    @property
    def url(self) -> str:
        return f"ssh://{getuser()}@127.0.0.1:{self.port}"


@contextmanager
def serve(base: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """Run a server whose sessions have `environment`; files go to `base`, which is there."""
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shutil.copy(base / "user.pub", base / "authorized")
    settings = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": base / "host",
        "AuthorizedKeysFile": base / "authorized",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "yes",
        "SetEnv": " ".join(f"{name}={value}" for name, value in environment.items()),
    }
    (base / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    key = (base / "host.pub").read_text().strip()
    (base / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    (base / "ssh_config").write_text(
        f"IdentityFile {base}/user\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {base}/known\nGlobalKnownHostsFile none\n"
    )
    (base / "bin").mkdir()
    wrapper = base / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {base}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    log = base / "sshd.log"
    with log.open("wb") as out:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(base / "sshd_config")], stderr=out)
    try:
        wait_for(lambda: b"Server listening" in log.read_bytes() or server.poll() is not None)
        assert server.poll() is None, log.read_text()
        yield Server(port, base / "bin", log)
    finally:
        server.terminate()
        server.wait(20)
