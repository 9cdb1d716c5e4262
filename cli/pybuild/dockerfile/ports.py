"""The ports of EXPOSE."""

import re

from pybuild.dockerfile.errors import InvalidValueError, did_you_mean, shown

PROTOCOLS = ("tcp", "udp", "sctp")
MAX_PORT = 65535

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_ADDRESS = re.compile(r"\[[0-9A-Fa-f:.%a-z]*\]|[0-9A-Fa-f.]*|[0-9A-Fa-f:]*")


def parse_port_spec(text: str) -> list[str]:
    """Return `["80/tcp"]` for an expanded word of EXPOSE, a range as single ports; raise InvalidValueError.

    spec = [ [ address ":" ] [ ports ] ":" ] ports [ "/" protocol ]        ports = number [ "-" number ]

    Only the container's side counts; whoever wants to warn of the rest asks `has_host_part`.
    """
    places, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash and protocol else "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidValueError(f"invalid proto: {shown(protocol)}{did_you_mean(protocol, PROTOCOLS)}")
    host, _, container = places.rpartition(":")
    if not container:
        raise InvalidValueError(f"no port specified: {shown(text) or '<empty>'}")
    first, last = _parse_range(container, text)
    if host:
        address, _, outside = host.rpartition(":")
        if not _ADDRESS.fullmatch(address):
            raise InvalidValueError(f"invalid IP address in port: {shown(text)}")
        if outside:
            _parse_range(outside, text)
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def has_host_part(text: str) -> bool:
    """Does the word of EXPOSE name an address or a port of the host, which no image can hold?"""
    return ":" in text


def _parse_range(ports: str, text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(ports)
    if match is None:
        hint = "write it as `80`, `80/udp` or `8000-8010/tcp`"
        raise InvalidValueError(f"invalid containerPort: {shown(text)}", hint)
    first = int(match[1])
    last = int(match[2] or match[1])
    if max(first, last) > MAX_PORT:
        raise InvalidValueError(f"port is larger than {MAX_PORT}: {shown(text)}")
    if first > last:
        raise InvalidValueError(f"port range ends before it begins: {shown(text)}")
    return first, last
