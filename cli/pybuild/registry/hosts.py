"""Where the registry of a name is, and how it is spoken to."""

import ipaddress
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pybuild.oci.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN
from pybuild.registry.certificates import trust_of
from pybuild.registry.transport import SYSTEM, Trust

DOCKER_HUB = "registry-1.docker.io"
"""Serves what `docker.io` names."""

NOTHING: Mapping[str, str] = MappingProxyType({})

VERIFIED, TRIED, PLAIN = "verified", "tried", "plain"
"""How a host is spoken to: TLS only; TLS, and plain text where the server knows none; plain text only."""


class Host(NamedTuple):
    """A registry, or a mirror of one.

    `name` is what names of images say and credentials are kept for, `address` host and port that are asked.
    """

    name: str
    address: str
    security: str = VERIFIED
    trust: Trust = SYSTEM


def host_of(domain: str, insecure: Collection[str], environment: Mapping[str, str] = NOTHING) -> Host:
    """Return the registry of a domain. `insecure` are those that need not prove who they are, by host[:port].

    `environment` says where certificates for it may be. Raises RegistryError for some that cannot be used.
    """
    address = DOCKER_HUB if domain in (DEFAULT_DOMAIN, LEGACY_DOMAIN) else domain
    bare = address.rpartition(":")[0] if address.rpartition(":")[2].isdigit() else address
    is_insecure = domain in insecure or bare in insecure
    trust = trust_of(dict.fromkeys((domain, address)), environment, verify=not is_insecure)
    # What never leaves this machine may be in plain text, as with docker
    return Host(domain, address, TRIED if is_insecure or is_loopback(bare) else VERIFIED, trust)


def is_loopback(host: str) -> bool:
    """Is a host this machine by its very name?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
