"""Other Debian systems than this one, without any Python: what the frozen program is to run on."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from support import debian

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SCRIPT = """\
tree=$1 program=$2
shift 2
mount --rbind "$tree" "$tree"
for name in proc sys dev; do mount --rbind "/$name" "$tree/$name"; done
mount -t tmpfs none "$tree/tmp"
mkdir "$tree/tmp/home"
cp "$program" "$tree/tmp/pybuild"
cp "$(command -v busybox)" "$tree/tmp/busybox"
cd "$tree"
pivot_root . mnt
cd /
# The smallest systems have no umount
/tmp/busybox umount -l /mnt
/tmp/busybox rm /tmp/busybox
exec unshare -U --map-user=1000 --map-group=1000 env -i PATH=/usr/bin:/bin HOME=/tmp/home /tmp/pybuild "$@"
"""


def archive(suite: str) -> Path:
    """Return the tar of a small system, which is kept where the tests keep such; made as an ordinary user."""
    cache = Path(os.environ.get(debian.CACHE) or Path(tempfile.gettempdir(), f"pybuild-systems-{os.geteuid()}"))
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{suite}-{os.geteuid()}.tar"
    with open(cache / f"{target.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _make(suite, target)
    return target


def _make(suite: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="system-", dir=target.parent) as work:
        conf, out = Path(work, "apt.conf"), Path(work, "system.tar")
        conf.write_text(debian.apt_conf())
        command = ["mmdebstrap", "--quiet", "--variant=essential", f"--aptopt={conf}", suite, str(out)]
        os.chmod(work, 0o755)
        done = subprocess.run(
            [*command, debian.mirror() or ""], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"mmdebstrap of {suite} failed: {done.stderr[-2000:]}")
        out.rename(target)


def unpack(suite: str, tree: Path) -> Path:
    """Unpack such a system as this user, who may make no devices, and return where."""
    tree.mkdir()
    command = ["tar", "-C", tree, "--no-same-owner", "--exclude=./dev/*", "-xf", archive(suite)]
    subprocess.run(command, check=True)
    return tree


def run(tree: Path, program: str | Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the program in that system, of which it sees nothing else, as an ordinary user with one id."""
    command = [
        "unshare",
        "-Urm",
        "--propagation",
        "private",
        "sh",
        "-euc",
        _SCRIPT,
        "sh",
        str(tree),
        str(program),
        *words,
    ]
    return subprocess.run(command, env={"PATH": _PATH}, capture_output=True, text=True, timeout=280, check=False)


def lacks() -> str:
    """Return what is missing here to make and enter such systems, or ""."""
    missing = [
        name for name in ("mmdebstrap", "unshare", "busybox", "pivot_root") if not shutil.which(name, path=_PATH)
    ]
    return f"{', '.join(missing)}: not installed" if missing else ""
