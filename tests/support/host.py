"""What this machine offers: the facts behind the markers, each asked for once."""

import functools
import importlib.util
import os
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from pybuild.sandbox import cgroups
from support import debian, frozen, sshd

REQUIRE = "PYBUILD_TEST_REQUIRE"
"""Names of markers, separated by spaces, whose tests must run: a lack is then a failure and not a skip."""

PEERS = ("skopeo", "umoci", "podman", "buildah", "docker-registry")


def _succeeds(*command: str) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@functools.cache
def lacks_userns() -> str:
    """Return why unprivileged user namespaces do not work here, or ""."""
    return "" if _succeeds("unshare", "-Urm", "true") else "this machine does not let users make user namespaces"


@functools.cache
def lacks_multiid() -> str:
    """Return why this user cannot map more than one id, or ""."""
    if lacks_userns():
        return lacks_userns()
    if os.geteuid() == 0:
        return ""
    if not shutil.which("newuidmap"):
        return "newuidmap is not installed"
    return "" if _succeeds("unshare", "-r", "--map-auto", "true") else "this user has no subordinate ids"


def lacks_single_id() -> str:
    """Return why tests of a user without subordinate ids cannot run as this user, or ""."""
    return lacks_userns() or ("" if lacks_multiid() else "this user has subordinate ids")


@functools.cache
def lacks_peers() -> str:
    """Return which other tools are missing, or ""."""
    missing = [name for name in PEERS if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else ""


@functools.cache
def lacks_network() -> str:
    """Return why a Debian root file system cannot be made, or ""."""
    if not shutil.which("mmdebstrap"):
        return "mmdebstrap is not installed"
    if any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY")) or debian.acquire_options().get(
        "http::Proxy"
    ):
        return ""
    address = debian.mirror()
    if address is None:
        return "the apt sources of this machine name no Debian mirror"
    mirror = urlsplit(address)
    port = mirror.port or (443 if mirror.scheme == "https" else 80)
    try:
        socket.create_connection((mirror.hostname or "", port), timeout=10).close()
    except OSError as error:
        return f"the package mirror cannot be reached: {error}"
    return ""


@functools.cache
def lacks_tun() -> str:
    """Return why this user cannot have a private network, or ""."""
    if not any(map(shutil.which, ("pasta", "slirp4netns"))):
        return "neither pasta nor slirp4netns is installed"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun cannot be opened: {error.strerror}"
    return lacks_userns()


@functools.cache
def lacks_cgroups() -> str:
    """Return why limits cannot be enforced for this user, or ""."""
    needed = {"memory", "cpu", "cpuset", "pids"}
    missing = needed.difference(*(place.controllers for place in cgroups.find_places(needed, [])))
    return f"this user may make no control groups for: {', '.join(sorted(missing))}" if missing else lacks_userns()


@functools.cache
def lacks_git() -> str:
    """Return why there can be no repositories, or ""."""
    git = shutil.which("git")
    if git is None:
        return "git is not installed"
    place = subprocess.run([git, "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    missing = [name for name in ("git-http-backend", "git-daemon") if not os.access(f"{place}/{name}", os.X_OK)]
    return f"git comes without {missing[0]}" if missing else ""


def lacks_tls() -> str:
    """Return why no certificates can be made, or ""."""
    return "" if shutil.which("openssl") else "openssl is not installed"


def lacks_frozen() -> str:
    """Return why there is no frozen program to test, or ""."""
    return "" if frozen.PROGRAM else "PYBUILD_TEST_PROGRAM does not name what `packaging/build` has made"


PLUGINS = os.environ.get("PYBUILD_TEST_PLUGINS", "")
"""A directory of plugins of Docker's command line, besides those that are installed."""


def plugin(name: str) -> Path | None:
    """Return a plugin of Docker's command line."""
    places = [
        f"{top}/docker/cli-plugins" for top in ("/usr/libexec", "/usr/lib", "/usr/local/lib", "/usr/local/libexec")
    ]
    return next((Path(place, name) for place in (PLUGINS, *places) if place and Path(place, name).is_file()), None)


def lacks_buildx() -> str:
    """Say which plugins of Docker's command line are missing."""
    missing = [name for name in ("docker-buildx", "docker-compose") if plugin(name) is None]
    missing += [] if shutil.which("docker") else ["docker (the client)"]
    return f"not installed: {', '.join(missing)}" if missing else ""


@functools.cache
def lacks_docker() -> str:
    """Return which clients of Docker's are missing, or ""."""
    missing = [] if shutil.which("docker") else ["docker (the client)"]
    missing += [] if importlib.util.find_spec("docker") else ["docker for Python"]
    return f"not installed: {', '.join(missing)}" if missing else ""


def lacks_sshd() -> str:
    """Return why there can be no ssh to this machine, or ""."""
    return "" if sshd.SSHD and shutil.which("ssh") else "openssh-server is not installed"


LACKS = {
    "frozen": lacks_frozen,
    "cgroups": lacks_cgroups,
    "tun": lacks_tun,
    "userns": lacks_userns,
    "multiid": lacks_multiid,
    "peers": lacks_peers,
    "network": lacks_network,
    "git": lacks_git,
    "tls": lacks_tls,
    "docker": lacks_docker,
    "sshd": lacks_sshd,
    "buildx": lacks_buildx,
}


def required() -> set[str]:
    """Return the markers whose tests may not be skipped."""
    return set(os.environ.get(REQUIRE, "").split())
