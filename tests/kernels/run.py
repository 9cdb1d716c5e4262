"""Runs a command in a virtual machine with another kernel and this machine's files.

`python tests/kernels/run.py [--user NAME] [--seconds N] KERNEL.deb COMMAND...`: the kernel is that of a Debian package
(`apt-get download linux-image-...-amd64`). The root directory is this machine's, shared read-only, with a layer in
memory above it; /tmp is an ext4 disk of its own. Control groups are version 2 alone, and the command runs in one that
belongs to the user, as in a session of systemd. Needs qemu-system-x86_64 and a static busybox. All is emulated, some
twenty times slower than without, unless `--accel=kvm` says otherwise.
"""

import argparse
import gzip
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

QEMU = f"qemu-system-{os.uname().machine}"
MODULES = (
    *("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "crc32c_generic", "crc32c_intel", "ext4", "overlay", "tun"),
    *("fuse",),
)
_ENDED = re.compile(r"^ended with ([0-9]+)\r?$", re.MULTILINE)
_DISK = 6 << 30
_INIT = """\
#!/bin/sh
export PATH=/bin
mount -t proc none /proc
mount -t devtmpfs none /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mkdir -p /low /high /root
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose host /low
mount -t tmpfs none /high
mkdir /high/upper /high/work
mount -t overlay -o lowerdir=/low,upperdir=/high/upper,workdir=/high/work none /root
cp /run.sh /root/run.sh
cd /root
mount -t proc none proc
mount -t sysfs none sys
mount -t devtmpfs none dev
mkdir -p dev/pts dev/shm
mount -t devpts -o ptmxmode=666 none dev/pts
mount -t tmpfs none dev/shm
mount -t tmpfs none run
mount -t cgroup2 -o nsdelegate none sys/fs/cgroup
mount -t ext4 /dev/vda tmp
chmod 1777 tmp
ip link set lo up
# In a directory that one has only changed its root to there are no user namespaces
exec switch_root /root /bin/sh /run.sh
"""
# What systemd does for a user: a service whose group it gives away, and the command in a group below
_RUN = """\
cd /sys/fs/cgroup
chmod 666 /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fuse /dev/net/tun 2>/dev/null
echo "+cpu +memory +pids +cpuset" > cgroup.subtree_control
mkdir -p user/app
for group in user user/app; do
    chown USER $group $group/cgroup.procs $group/cgroup.subtree_control $group/cgroup.threads
done
echo "+cpu +memory +pids +cpuset" > user/cgroup.subtree_control
export HOME=$(getent passwd USER | cut -d: -f6) PATH=PLACES
cd DIRECTORY
sh -c 'echo $$ > /sys/fs/cgroup/user/app/cgroup.procs && exec "$@"' sh \
    setpriv --reuid USER --regid USER --init-groups env COMMAND
echo "ended with $?"
sync
exec busybox poweroff -f
"""


def missing() -> str:
    """Return what a machine needs and this one has not; empty when all is there."""
    return next(
        (f"{name} is not there" for name in (QEMU, "busybox", "mke2fs", "dpkg-deb") if not shutil.which(name)), ""
    )


def unpack(package: Path, base: Path) -> tuple[Path, list[Path]]:
    """Unpack a kernel package; return the kernel and the modules that are needed, in the order of loading."""
    subprocess.run(["dpkg-deb", "-x", package, base], check=True)
    [kernel] = base.glob("boot/vmlinuz-*")
    there = {re.sub(r"\.ko.*", "", path.name).replace("-", "_"): path for path in base.rglob("*.ko*")}
    order: dict[str, Path] = {}
    for name in MODULES:
        _add(name, there, order)
    return kernel, list(order.values())


def _add(name: str, there: dict[str, Path], order: dict[str, Path]) -> None:
    # What is no module is built in, or not to be had
    if name in order or name not in there:
        return
    needed = re.search(rb"\0depends=([^\0]*)\0", content(there[name]))
    for other in needed[1].decode().split(",") if needed and needed[1] else ():
        _add(other.replace("-", "_"), there, order)
    order[name] = there[name]


def content(module: Path) -> bytes:
    """Return what is in a module, which newer packages compress."""
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def write_initial(path: Path, modules: Iterable[Path], run: str) -> None:
    """Write the initial file system: busybox, modules and scripts, as a compressed cpio (newc)."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    files = {"init": _INIT.encode(), "run.sh": run.encode(), "bin/busybox": Path(busybox).read_bytes()}
    names = []
    for module in modules:
        names.append(module.name.removesuffix(".xz"))
        files[f"modules/{names[-1]}"] = content(module)
    files["modules/order"] = "\n".join(names).encode()
    applets = ("sh", "mount", "insmod", "mkdir", "cat", "cp", "chmod", "switch_root", "ip")
    members = [(name, 0o040755, b"") for name in ("bin", "modules", "proc", "dev")]
    members += [(name, 0o100755, data) for name, data in files.items()]
    members += [(f"bin/{name}", 0o120777, b"busybox") for name in applets]
    with gzip.open(path, "wb", 1) as out:
        for number, (name, mode, data) in enumerate((*members, ("TRAILER!!!", 0, b"")), 1):
            label = name.encode() + b"\0"
            fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(label), 0)
            head = b"070701" + b"".join(b"%08x" % field for field in fields) + label
            out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))


def boot(
    package: Path, command: list[str], *, user: str, seconds: float, directory: Path, accel: str = "tcg"
) -> tuple[int | None, str]:
    """Run a command in a new machine; return its exit status, None when it never ended, and all that was written."""
    with tempfile.TemporaryDirectory(prefix="pbk-", ignore_cleanup_errors=True) as name:
        base = Path(name)
        kernel, modules = unpack(package, base / "kernel")
        replaced = {
            "USER": user,
            "DIRECTORY": shlex.quote(str(directory)),
            "PLACES": shlex.quote(os.environ["PATH"]),
            "COMMAND": shlex.join(command),
        }
        run = re.sub("|".join(replaced), lambda found: replaced[found[0]], _RUN)
        write_initial(base / "initial", modules, run)
        with open(base / "disk", "wb") as disk:
            disk.truncate(_DISK)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", base / "disk"], check=True)
        line = [
            *(QEMU, "-accel", accel, "-cpu", "max", "-m", "3G", "-smp", "2", "-nodefaults"),
            *("-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", kernel, "-initrd", base / "initial"),
            *("-append", "console=ttyS0 loglevel=5 panic=-1 rdinit=/init"),
            *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
            *("-drive", f"file={base / 'disk'},format=raw,if=virtio,cache=unsafe"),
        ]
        with open(base / "told", "wb") as told:
            machine = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.STDOUT)
        try:
            machine.wait(seconds)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()
        text = (base / "told").read_text(errors="replace")
    ended = _ENDED.search(text)
    return (int(ended[1]) if ended else None), text


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel", type=Path)
    parser.add_argument("--user", default="root")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--accel", default="tcg", help="as qemu names it")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 2
    place = Path.cwd()
    status, text = boot(
        asked.kernel, asked.command, user=asked.user, seconds=asked.seconds, directory=place, accel=asked.accel
    )
    print(text)
    return 1 if status is None else status


if __name__ == "__main__":
    raise SystemExit(main())
