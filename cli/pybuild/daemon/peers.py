"""Who is served: our own user on a unix socket; over TCP whom TLS let in, or on loopback no browser."""

import asyncio
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from pybuild.progress.escape import one_line


def stranger(transport: asyncio.BaseTransport | None) -> str:
    """Return why who is on the other side is not served, "" for who is.

    The modes of directory and socket say the same; this holds when somebody has changed them. Over TCP it was decided
    before: by TLS, or because nothing else than loopback is listened on without it.
    """
    connection: Any = None if transport is None else transport.get_extra_info("socket")
    if connection is None:
        return "the connection is gone"
    if connection.family != socket.AF_UNIX:
        return ""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return "" if uid == os.getuid() else f"this daemon serves user {os.getuid()} only, not {uid}"


def browser(transport: asyncio.BaseTransport | None, headers: Mapping[str, str]) -> str:
    """Return why a request is taken for one that a web page has made, "" for one that is not.

    A page may ask any address, and a name it was loaded from may have become that of this machine (DNS rebinding): so
    without TLS the name must be loopback's own.
    """
    for name in ("Origin", "Sec-Fetch-Site"):
        if name in headers:
            return "browsers are not served"
    connection: Any = None if transport is None else transport.get_extra_info("socket")
    if connection is None or connection.family == socket.AF_UNIX or transport is None:
        return ""
    if transport.get_extra_info("sslcontext") is None and not _names_loopback(headers.get("Host", "")):
        return f"this is no name of the daemon: {one_line(headers.get('Host', ''))[:100]}"
    return ""


def _names_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition("]")[2].count(":") == 1 else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
