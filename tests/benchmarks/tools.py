"""The builders that are compared, each with storage of its own."""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLI = Path(__file__).parents[2] / "cli"


@dataclass(frozen=True)
class Timing:
    """What one command took: wall seconds, and the peak memory in MB of it and the children it waited for."""

    seconds: float
    peak: float


def measure(command: list[str], env: dict[str, str]) -> Timing:
    """Run a command to its end; raise RuntimeError with its output when it fails."""
    log = os.memfd_create("log")
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        os.lseek(log, 0, os.SEEK_SET)
        output = os.read(log, 1 << 20).decode(errors="replace")
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{output[-2000:]}")
    os.close(log)
    return Timing(seconds, usage.ru_maxrss / 1024)


class Pybuild:
    """Ours, through the daemon or inline."""

    def __init__(self, work: Path, *, inline: bool, program: str = "") -> None:
        self.name = "pybuild inline" if inline else "pybuild"
        self.inline = inline
        self.command = [program] if program else [sys.executable, "-m", "pybuild"]
        self.store = work / ("pi" if inline else "pd")
        runtime = work / "r"
        runtime.mkdir(mode=0o700, exist_ok=True)
        self.env = {**os.environ, "PYBUILD_STORE": str(self.store), "PYBUILD_RUNTIME_DIR": str(runtime)}
        if not program:
            self.env["PYTHONPATH"] = str(CLI)
        if inline:
            self.env["PYBUILD_INLINE"] = "1"

    def add_base(self, rootfs: Path) -> None:
        measure([*self.command, "import", str(rootfs), "base"], self.env)

    def build(self, context: Path, dockerfile: Path, nonce: str) -> Timing:
        command = [*self.command, "build", "-q", "-t", "bench", "--build-arg", f"NONCE={nonce}", "-f", str(dockerfile)]
        return measure([*command, str(context)], self.env)

    def start(self, option: str) -> Timing:
        return measure([*self.command, option], self.env)

    def rest(self) -> None:
        """Have nothing running."""
        if not self.inline:
            subprocess.run([*self.command, "daemon", "stop"], env=self.env, capture_output=True, check=False)

    def memory(self) -> dict[str, float]:
        """Return what the daemon holds and held at most, in MB."""
        found: dict[str, float] = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
                environ = Path("/proc", pid, "environ").read_bytes()
                status = Path("/proc", pid, "status").read_text()
            except OSError:
                continue
            if b"_child" in words and b"daemon" in words and f"PYBUILD_STORE={self.store}\0".encode() in environ:
                values = dict(re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", status))
                found = {"peak": int(values["VmHWM"]) / 1024, "now": int(values["VmRSS"]) / 1024}
        return found

    def close(self) -> None:
        self.rest()


class Buildah:
    """buildah without root, its own overlay storage, layers kept as cache."""

    name = "buildah"

    def __init__(self, work: Path) -> None:
        home = work / "b"
        home.mkdir(exist_ok=True)
        policy = work / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.env = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
        self.env.pop("XDG_RUNTIME_DIR", None)
        storage = ["--storage-driver", "overlay", "--root", str(home / "root"), "--runroot", str(home / "run")]
        self.command = ["buildah", *storage]
        self.policy = ["--signature-policy", str(policy)]
        self.home = home

    def add_base(self, rootfs: Path) -> None:
        context = self.home / "base"
        context.mkdir()
        shutil.copy(rootfs, context / "base.tar")
        (context / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        measure([*self.command, "build", *self.policy, "-t", "localhost/base", str(context)], self.env)

    def build(self, context: Path, dockerfile: Path, nonce: str) -> Timing:
        options = ["--layers", "--isolation", "chroot", "--network", "host", "--pull-never", "-q", "-t", "bench"]
        command = [*self.command, "build", *self.policy, *options, "--build-arg", f"NONCE={nonce}"]
        return measure([*command, "-f", str(dockerfile), str(context)], self.env)

    def start(self, option: str) -> Timing:
        return measure(["buildah", option], self.env)

    def rest(self) -> None:
        """It never has anything running."""

    def memory(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        remove = ["buildah", "unshare", "rm", "-rf", str(self.home)] if os.geteuid() else ["rm", "-rf", str(self.home)]
        subprocess.run(remove, env=self.env, check=False, capture_output=True)


class Docker:
    """dockerd with BuildKit, where one runs and may be used."""

    name = "docker"

    def __init__(self, work: Path) -> None:
        self.env = {**os.environ, "DOCKER_BUILDKIT": "1"}
        self.base = "pybuild-benchmark-base"

    @staticmethod
    def works() -> bool:
        return bool(shutil.which("docker")) and not subprocess.run(["docker", "info"], capture_output=True).returncode

    def add_base(self, rootfs: Path) -> None:
        measure(["docker", "import", str(rootfs), self.base], self.env)

    def build(self, context: Path, dockerfile: Path, nonce: str) -> Timing:
        renamed = dockerfile.with_name(f"{dockerfile.name}.docker")
        renamed.write_text(dockerfile.read_text().replace("FROM base", f"FROM {self.base}"))
        command = ["docker", "build", "-q", "-t", "pybuild-benchmark", "--build-arg", f"NONCE={nonce}"]
        return measure([*command, "-f", str(renamed), str(context)], self.env)

    def start(self, option: str) -> Timing:
        return measure(["docker", option], self.env)

    def rest(self) -> None:
        """It is not ours to stop."""

    def memory(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        subprocess.run(["docker", "rmi", "-f", "pybuild-benchmark", self.base], capture_output=True, check=False)


Tool = Pybuild | Buildah | Docker


def available(work: Path, wanted: list[str], program: str) -> list[Tool]:
    """Return the tools of this machine, or those `wanted`."""
    makers: dict[str, Any] = {
        "pybuild": lambda: Pybuild(work, inline=False, program=program),
        "pybuild-inline": lambda: Pybuild(work, inline=True, program=program),
        "buildah": lambda: Buildah(work),
        "docker": lambda: Docker(work),
    }
    here = {
        "pybuild": True,
        "pybuild-inline": False,
        "buildah": bool(shutil.which("buildah")),
        "docker": Docker.works(),
    }
    return [makers[name]() for name in makers if (name in wanted if wanted else here[name])]
