"""A real Debian root file system, made once and kept: what the host's apt knows is given on to the one inside."""

import fcntl
import io
import os
import platform
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

CACHE = "PYBUILD_TEST_CACHE"
"""Directory that outlives a test run; without it the root file system is made anew in each."""

_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def codename() -> str:
    """Return the suite to install: the host's own when it is Debian."""
    facts = platform.freedesktop_os_release()
    return facts.get("VERSION_CODENAME", "bookworm") if facts.get("ID") == "debian" else "bookworm"


def sources() -> list[Path]:
    """Return the host's apt source files that speak of the suite and of nobody else's packages."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = []
    for place in places:
        if place.suffix not in (".list", ".sources") or not place.is_file() or not os.access(place, os.R_OK):
            continue
        text = place.read_text(errors="replace")
        if re.search(rf"\b{codename()}\b", text) and "debian-archive-keyring" in text + _keyring_of_lists(place):
            found.append(place)
    return found


def _keyring_of_lists(place: Path) -> str:
    # The one-line format usually names no key: the distribution's own file is meant.
    return "debian-archive-keyring" if place == Path("/etc/apt/sources.list") else ""


def mirror() -> str | None:
    """Return the first mirror of `sources`, None when the host names none."""
    for place in sources():
        for line in place.read_text(errors="replace").splitlines():
            found = re.match(r"(?:URIs:|deb\s+(?:\[[^\]]*\]\s+)?)\s*(https?://\S+)", line)
            if found:
                return found[1]
    return None


def acquire_options() -> dict[str, str]:
    """Return how the host's apt downloads (proxies, dates, checks), by option name below `Acquire::`."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, timeout=20, check=False).stdout
    except OSError:
        return {}
    options = dict(re.findall(r'^Acquire::(\S+) "(.+)";$', dump, re.MULTILINE))
    wanted = re.compile(r"(https?|ftp)::|Check-|Retries|ForceIPv|AllowInsecure")
    return {name: value for name, value in options.items() if wanted.match(name)}


def apt_conf() -> str:
    """Return an apt.conf fragment that lets the apt inside reach what the one outside reaches."""
    options = acquire_options()
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme.upper()}_PROXY")
        if proxy:
            options.setdefault(f"{scheme}::Proxy", proxy)
    # Package files would only make layers large.
    lines = [f'Acquire::{name} "{value}";\n' for name, value in options.items()]
    return "".join([*lines, 'APT::Install-Recommends "false";\n'])


def make(target: Path) -> None:
    """Write a minimal Debian root file system as a tar to `target`, complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="debian-", dir=target.parent) as work:
        os.chmod(work, 0o755)
        conf = Path(work, "apt.conf")
        conf.write_text(apt_conf())
        out = Path(work, "rootfs.tar")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--aptopt={conf}", codename(), str(out)]
        # Only root's mode "unshare" drops to a user that cannot read our directory: say "root" there.
        if os.geteuid() == 0:
            command.insert(1, "--mode=root")
        command += [str(place) for place in sources()]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=280
        )
        if done.returncode:
            raise RuntimeError(f"mmdebstrap failed: {done.stderr[-2000:]}")
        # mmdebstrap keeps the apt options in the tree; the authorities behind an https mirror it does not.
        if _CA_BUNDLE.exists():
            with tarfile.open(out, "a") as archive:
                for name in ("./etc/ssl", "./etc/ssl/certs"):
                    directory = tarfile.TarInfo(name)
                    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(directory)
                _add(archive, "./etc/ssl/certs/ca-certificates.crt", _CA_BUNDLE.read_bytes())
        out.rename(target)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


def rootfs(cache: Path) -> Path:
    """Return the tar in `cache`, made by whoever comes first; the others wait."""
    target = cache / f"debian-{codename()}-{os.geteuid()}.tar"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{target.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            make(target)
    return target
