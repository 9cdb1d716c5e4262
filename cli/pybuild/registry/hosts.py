"""Where the registry of a name is, and how it is spoken to."""

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from pybuild.oci.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN
from pybuild.registry.transport import SYSTEM, Trust

DOCKER_HUB = "registry-1.docker.io"
"""Serves what `docker.io` names."""

VERIFIED, TRIED, PLAIN = "verified", "tried", "plain"
"""How a host is spoken to: TLS only; TLS, and plain text where the server knows none; plain text only."""


class Host(NamedTuple):
    """A registry, or a mirror of one.

    `name` is what names of images say and credentials are kept for, `address` host and port that are asked,
    `prefix` what stands before the paths of repositories there, "" mostly.
    """

    name: str
    address: str
    security: str = VERIFIED
    trust: Trust = SYSTEM
    prefix: str = ""


def host_of(domain: str, insecure: Mapping[str, bool]) -> Host:
    """Return the registry of a domain. `insecure` are those that need not prove who they are, by host[:port]."""
    address = DOCKER_HUB if domain in (DEFAULT_DOMAIN, LEGACY_DOMAIN) else domain
    bare = address.rpartition(":")[0] if address.rpartition(":")[2].isdigit() else address
    wanted = insecure.get(domain, insecure.get(bare))
    if wanted:
        return Host(domain, address, TRIED, Trust(verify=False))
    # What never leaves this machine may be in plain text, as with docker
    return Host(domain, address, TRIED if wanted is None and is_loopback(bare) else VERIFIED)


def is_loopback(host: str) -> bool:
    """Is a host this machine by its very name?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
