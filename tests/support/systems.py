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
tree=$1 file=$2 script=$3
shift 3
mount --rbind "$tree" "$tree"
for name in proc sys dev; do mount --rbind "/$name" "$tree/$name"; done
mount -t tmpfs none "$tree/tmp"
mkdir "$tree/tmp/home"
cp "$file" "$tree/tmp/"
cp "$(command -v busybox)" "$tree/tmp/busybox"
cd "$tree"
pivot_root . mnt
cd /
# The smallest systems have no umount
/tmp/busybox umount -l /mnt
/tmp/busybox rm /tmp/busybox
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp/home sh -euc "$script" sh "$@"
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
        command = ["mmdebstrap", "--quiet", "--variant=apt", f"--aptopt={conf}", suite, str(out)]
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


USER = "unshare -U --map-user=1000 --map-group=1000"
"""Makes a command one of an ordinary user, who has one id."""


def run(tree: Path, file: str | Path, script: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell script as root of that system, of which it sees nothing else, with a file that is put into /tmp."""
    command = ["unshare", "-Urm", "--propagation", "private", "sh", "-euc", _SCRIPT, "sh", tree, file, script, *words]
    environment = {"PATH": _PATH}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def lacks() -> str:
    """Return what is missing here to make and enter such systems, or ""."""
    missing = [
        name for name in ("mmdebstrap", "unshare", "busybox", "pivot_root") if not shutil.which(name, path=_PATH)
    ]
    return f"{', '.join(missing)}: not installed" if missing else ""
