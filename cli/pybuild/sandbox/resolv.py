"""What the sandbox's /etc/resolv.conf says."""

import os

from pybuild.sandbox.spec import SandboxSpec

NAME_SERVER = "10.0.2.3"
"""Where the helpers of a private network answer for the host's name servers."""

_HOST = "/etc/resolv.conf"
_LIMIT = 64 << 10


def private_resolv_conf() -> bytes:
    """Return /etc/resolv.conf for a private network: the host's, but all questions go to the helper.

    The host's own name servers may listen on its loopback, which is out of reach.
    """
    kept = [line for line in host_resolv_conf().splitlines() if line.split()[:1] in ([b"search"], [b"options"])]
    return b"\n".join([b"nameserver " + NAME_SERVER.encode(), *kept]) + b"\n"


def host_resolv_conf() -> bytes:
    """Return what the host says about name servers, empty when it says nothing."""
    try:
        fd = os.open(_HOST, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _LIMIT)
    finally:
        os.close(fd)


def for_spec(spec: SandboxSpec) -> bytes:
    """Return what the caller or else the host says about name servers; nothing where there is no network."""
    if spec.resolv_conf is not None:
        return spec.resolv_conf
    return b"" if spec.network == "none" else host_resolv_conf()
