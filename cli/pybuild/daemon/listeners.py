"""Where the daemon listens besides its own socket: TCP, with a certificate of each client, or on loopback only."""

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pybuild.errors import PybuildError, UsageError

if TYPE_CHECKING:
    from ssl import SSLContext

WITHOUT_TLS = "has no TLS: whoever can run a program on this machine can build as you, and read what you can"

_ADDRESS = re.compile(r"tcp://(?:\[([0-9A-Fa-f:]+)\]|([0-9.]+|localhost)):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files: whose clients may come, and what the daemon shows them."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; `name` is for people, `inherited` one that somebody else has made and keeps."""

    socket: socket.socket
    name: str
    tls: "SSLContext | None" = None
    inherited: bool = False


def tls_of(ca: str, cert: str, key: str) -> Tls | None:
    """Return the three, None for none of them; raise UsageError for a part."""
    given = [bool(path) for path in (ca, cert, key)]
    if any(given) and not all(given):
        raise UsageError("TLS takes --tls-ca, --tls-cert and --tls-key together")
    return Tls(*map(os.path.abspath, (ca, cert, key))) if all(given) else None


def listen(addresses: Sequence[str], tls: Tls | None) -> list[Listener]:
    """Return a listener for each address `tcp://ADDRESS:PORT`.

    Raises UsageError for what is no such address, and for one that is not loopback's without TLS; PybuildError where
    nobody can listen.
    """
    found = [_parsed(text, secure=tls is not None) for text in addresses]
    context = server_context(tls) if tls is not None else None
    listeners: list[Listener] = []
    try:
        for family, address, port in found:
            listeners.append(_bound(family, address, port, context))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def _parsed(text: str, *, secure: bool) -> tuple[socket.AddressFamily, str, int]:
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise UsageError(f"cannot listen there: {text}", "write `tcp://ADDRESS:PORT`; 0.0.0.0 is every address")
    address = match[1] or match[2].replace("localhost", "127.0.0.1")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f"cannot listen there: {text}: not an address", "write `tcp://ADDRESS:PORT`") from error
    if not secure and not parsed.is_loopback:
        raise UsageError(
            f"without TLS nobody else's machine is let in: {text}",
            "give --tls-ca, --tls-cert and --tls-key, or listen on 127.0.0.1",
        )
    return (socket.AF_INET6 if parsed.version == 6 else socket.AF_INET), address, int(match[3])


def _bound(family: socket.AddressFamily, address: str, port: int, context: "SSLContext | None") -> Listener:
    try:
        listener = socket.create_server((address, port), family=family, backlog=128)
    except OSError as error:
        raise PybuildError(f"cannot listen on {name_of((address, port))}: {error.strerror}") from error
    listener.setblocking(False)
    return Listener(listener, name_of(listener.getsockname()), context)


def name_of(address: object) -> str:
    """Return an address of a socket as people write it."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    return f"unix://{address}"


def taken(given: socket.socket, tls: Tls | None) -> Listener:
    """Return the listener for a socket that somebody else listens on; raise UsageError for what must not be served."""
    given.setblocking(False)
    if given.type != socket.SOCK_STREAM or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError("the socket that was handed over is none to listen on", "use ListenStream= in its unit")
    address = given.getsockname()
    if given.family == socket.AF_UNIX:
        return Listener(given, name_of(address), inherited=True)
    if tls is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(
            f"without TLS nobody else's machine is let in: {name_of(address)}",
            "give --tls-ca, --tls-cert and --tls-key in ExecStart=",
        )
    return Listener(given, name_of(address), server_context(tls) if tls is not None else None, inherited=True)


def server_context(tls: Tls) -> "SSLContext":
    """Return what lets in only who shows a certificate of that CA; raise UsageError for files that cannot be used."""
    # Its certificates take time and memory that a daemon without TCP saves
    import ssl

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot use the certificates: {told}", "--tls-ca, --tls-cert and --tls-key are files in PEM"
        ) from error
    return context


def _no_password() -> str:
    # It would ask on the terminal
    raise ValueError("the key has a password")
