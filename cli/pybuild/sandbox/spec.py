"""What a RUN is and sees, as a value."""

import os
from typing import Any, Literal

import msgspec

from pybuild.sandbox import volumes
from pybuild.sandbox.errors import SandboxError
from pybuild.sandbox.volumes import Volume

Network = Literal["none", "host", "private"]
NETWORKS: tuple[Network, ...] = ("none", "host", "private")
Emulation = Literal["off", "fake", "full"]
EMULATIONS: tuple[Emulation, ...] = ("off", "fake", "full")
Snapshotter = Literal["overlay", "copy"]
SNAPSHOTTERS: tuple[Snapshotter, ...] = ("overlay", "copy")
Isolation = Literal["namespaces", "chroot"]
ISOLATIONS: tuple[Isolation, ...] = ("namespaces", "chroot")
Stdin = Literal["null", "given", "terminal"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_SIZE = 64 << 20
MAX_LAYERS = 500
"""What the kernel takes as the lower directories of one overlay."""


class FileMount(msgspec.Struct, frozen=True):
    """A file of ours that appears, read-only, at `target` (a path in the image, its last part not followed).

    An `optional` one only appears where the image has something. A `lent` one is no mount but a file among the
    others, which the RUN may replace; what is left of it is taken away afterwards.
    """

    target: str
    content: bytes
    mode: int = 0o644
    optional: bool = False
    lent: bool = False


Mount = FileMount
"""Closed union of what can be mounted beside the system's own file systems."""


class RunEnd(msgspec.Struct, frozen=True):
    """How a RUN ended.

    `status` is its exit code as shells count it: 128 + signal when killed, 127 and 126 when it could not be
    executed, of which `message` says why. With a `problem` nothing was run, as the sandbox could not be made.
    """

    status: int
    cancelled: bool = False
    message: str = ""
    problem: str = ""
    hint: str = ""


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process and its world.

    `argv` is executed without a shell. `env` is all of its environment but PATH and HOME, which get their usual
    values when absent. `cwd` is made, as root's, when the image lacks it. `user` is `user[:group]` as in USER,
    "" for root; names are looked up in the image. `lowers` are unpacked layers on the host, bottom first.
    `staging` is a directory of the caller's on the same file system as a store that overlayfs can write to; the
    changes are left in its `fs`; when it is there already, the process goes on from it. `shm_size` is in bytes,
    0 the default. `ulimits` are (name, soft, hard), -1 for unlimited. `extra_hosts` are "name:ip".
    `resolv_conf` takes the place of the host's when not None; with the network "private" the caller has joined
    it. `scripts` are (name, content) of files below /dev/pipes. `emulation` of root, for where one id is
    mapped: "fake" lets changes of owner and identity seem to succeed, "full" keeps track of them. `insecure`
    leaves the process all that root of a user namespace may do: all capabilities, all system calls, nothing of
    /proc and /sys hidden. `stdin` is /dev/null, a descriptor that is "given", or, with the two for output, a
    new "terminal" (`sandbox/terminal.py`). With the `snapshotter` "copy" nothing is stacked: `fs` is there and
    holds the whole tree, to be changed in place. With the `isolation` "chroot", which needs that, nothing is
    mounted either. `set_gid` are the paths of all set-gid directories of the image, None when they are not known;
    it only makes emulation faster. `grace` is how many seconds a cancelled process has between SIGTERM and SIGKILL.
    """

    argv: tuple[str, ...]
    lowers: tuple[bytes, ...]
    staging: bytes
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    user: str = ""
    network: Network = "host"
    hostname: str = "pybuild"
    extra_hosts: tuple[str, ...] = ()
    resolv_conf: bytes | None = None
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    scripts: tuple[tuple[str, bytes], ...] = ()
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[Volume, ...] = ()
    insecure: bool = False
    grace: float = 2.0
    emulation: Emulation = "off"
    stdin: Stdin = "null"
    snapshotter: Snapshotter = "overlay"
    isolation: Isolation = "namespaces"
    set_gid: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        """Raise SandboxError for what no sandbox could be made of."""
        if not self.argv or not self.argv[0]:
            raise SandboxError("there is no command to run")
        if self.network not in NETWORKS:
            raise SandboxError(f"unknown network mode of a sandbox: {self.network}", f"known: {', '.join(NETWORKS)}")
        if self.emulation not in EMULATIONS:
            raise SandboxError(f"unknown emulation of root: {self.emulation}", f"known: {', '.join(EMULATIONS)}")
        if len(self.lowers) > MAX_LAYERS:
            raise SandboxError(f"image has more layers than one overlay can hold: {len(self.lowers)}")
        for name, _ in self.scripts:
            if not name or "/" in name or "\0" in name or name in (".", ".."):
                raise SandboxError(f"script name cannot be a file name: {name!r}")
        texts = (*self.argv, self.cwd, self.user, self.hostname, *(f"{key}={value}" for key, value in self.env))
        for text in texts:
            if "\0" in text:
                raise SandboxError(f"a NUL byte cannot be passed to a process: {text!r:.100}")

    def to_wire(self) -> dict[str, Any]:
        """Return the value in plain types; text becomes bytes, as it may hold what UTF-8 cannot."""
        return {
            "argv": [os.fsencode(word) for word in self.argv],
            "lowers": list(self.lowers),
            "staging": self.staging,
            "env": [[os.fsencode(key), os.fsencode(value)] for key, value in self.env],
            "cwd": os.fsencode(self.cwd),
            "user": os.fsencode(self.user),
            "network": self.network,
            "hostname": os.fsencode(self.hostname),
            "extra_hosts": [os.fsencode(host) for host in self.extra_hosts],
            "resolv_conf": self.resolv_conf,
            "shm_size": self.shm_size,
            "ulimits": [list(limit) for limit in self.ulimits],
            "scripts": [[os.fsencode(name), content] for name, content in self.scripts],
            "mounts": [
                [os.fsencode(item.target), item.content, item.mode, item.optional, item.lent] for item in self.mounts
            ],
            "volumes": volumes.to_wire(self.volumes),
            "insecure": self.insecure,
            "grace": self.grace,
            "emulation": self.emulation,
            "stdin": self.stdin,
            "snapshotter": self.snapshotter,
            "isolation": self.isolation,
            "set_gid": self.set_gid,
        }

    @staticmethod
    def from_wire(data: dict[str, Any]) -> "SandboxSpec":
        """Return the spec that `to_wire` made `data` of."""
        text = os.fsdecode
        return SandboxSpec(
            argv=tuple(map(text, data["argv"])),
            lowers=tuple(data["lowers"]),
            staging=data["staging"],
            env=tuple((text(key), text(value)) for key, value in data["env"]),
            cwd=text(data["cwd"]),
            user=text(data["user"]),
            network=data["network"],
            hostname=text(data["hostname"]),
            extra_hosts=tuple(map(text, data["extra_hosts"])),
            resolv_conf=data["resolv_conf"],
            shm_size=data["shm_size"],
            ulimits=tuple((name, soft, hard) for name, soft, hard in data["ulimits"]),
            scripts=tuple((text(name), content) for name, content in data["scripts"]),
            mounts=tuple(FileMount(text(target), *rest) for target, *rest in data["mounts"]),
            volumes=volumes.from_wire(data["volumes"]),
            insecure=data["insecure"],
            grace=data["grace"],
            emulation=data["emulation"],
            stdin=data["stdin"],
            # Kept steps of earlier versions lack these
            snapshotter=data.get("snapshotter", "overlay"),
            isolation=data.get("isolation", "namespaces"),
            set_gid=None if data.get("set_gid") is None else tuple(data["set_gid"]),
        )

    def describe(self) -> str:
        """Return it as a few lines for a log; the environment's values are left out, they may be secret."""
        return "\n".join(
            (
                f"run {list(self.argv)!r} in {self.cwd} as {self.user or 'root'}",
                f"network {self.network}, hostname {self.hostname}, environment {[key for key, _ in self.env]!r}",
                f"{self.snapshotter} of {len(self.lowers)} layers, changes in {os.fsdecode(self.staging)}",
            )
        )
