"""Which hosts may be reached, decided on the very addresses that are connected to: a name may change its mind."""

import ipaddress
import select
import socket
import time
from collections.abc import Callable
from enum import IntEnum

from pybuild.remote.errors import AddressError, RemoteError

CONNECT_SECONDS = 20.0
"""How long one address has to answer."""

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
"""As the socket module has them."""

_POLL = 0.1
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Reach(IntEnum):
    """How near an address is: the nearer, the more it is trusted to be asked by friends only."""

    PUBLIC = 0
    PRIVATE = 1
    """Networks of an organisation (RFC 1918, 4193, 6598)."""
    LOCAL = 2
    """This machine and its link: loopback, metadata services of clouds."""


class Bounds:
    """How near what is fetched may lead: at first as `limit` says, then no nearer than where it began, or `follow`."""

    def __init__(self, limit: Reach, follow: Reach | None) -> None:
        self._limit = limit
        self._follow = follow
        self._first: Reach | None = None

    @property
    def limit(self) -> Reach:
        """Return the nearest reach that may be asked now."""
        if self._first is None:
            return self._limit
        return self._first if self._follow is None else max(self._follow, self._first)

    def arrive(self, reach: Reach) -> None:
        """Note where a host is that is asked."""
        if self._first is None:
            self._first = reach


def reach_of(address: str) -> Reach:
    """Return how near an IP address is; those that lead on to an IPv4 address are as near as that."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return reach_of(str(inner))
    if found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast:
        return Reach.LOCAL
    if found in ipaddress.ip_network("0.0.0.0/8" if found.version == 4 else "::/96"):
        return Reach.LOCAL
    return Reach.PUBLIC if found.is_global else Reach.PRIVATE


def resolve(host: str, port: int, limit: Reach) -> tuple[Reach, list[tuple[int, Address]]]:
    """Return the nearest reach among a host's addresses, and those as (family, address) to connect to.

    Raises RemoteError for a name nobody knows, AddressError when any of them is nearer than `limit`.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RemoteError(f"cannot find the host: {host}: {why}", "check its name and your network") from error
    reach = Reach.PUBLIC
    addresses: list[tuple[int, Address]] = []
    for family, _, _, _, address in found:
        reach = max(reach, reach_of(str(address[0])))
        if reach > limit:
            raise refused(host, str(address[0]), reach)
        addresses.append((family, address))
    return reach, addresses


def judge_literal(host: str, limit: Reach) -> Reach:
    """Return the reach of a host that somebody else looks up: only of an address it is known.

    Raises AddressError for one that is nearer than `limit`.
    """
    try:
        reach = reach_of(host)
    except ValueError:
        return Reach.PUBLIC
    if reach > limit:
        raise refused(host, host, reach)
    return reach


def refused(host: str, address: str, reach: Reach) -> AddressError:
    """Return the error for a host that is nearer than it may be."""
    where = "this machine or its link" if reach is Reach.LOCAL else "a private network"
    shown = host if host == address else f"{host} ({address})"
    return AddressError(
        f"an address of {where} may not be reached: {shown}",
        "build with `--allow network.host` if you trust the Dockerfile to ask what listens there",
    )


def connect(host: str, port: int, limit: Reach, check: Callable[[], None]) -> tuple[socket.socket, Reach]:
    """Return a connection to the first address of a host that answers, and the host's reach.

    `check` is called while it is waited for and may raise. Raises RemoteError and AddressError.
    """
    reach, addresses = resolve(host, port, limit)
    failure: OSError = OSError("no address")
    for family, address in addresses:
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _connect(connection, address, check)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection, reach
    why = failure.strerror or str(failure)
    raise RemoteError(f"cannot connect to {host}:{port}: {why}", "check the address and your network") from failure


def _connect(connection: socket.socket, address: Address, check: Callable[[], None]) -> None:
    connection.setblocking(False)
    code = connection.connect_ex(address)
    deadline = time.monotonic() + CONNECT_SECONDS
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    while code and not poll.poll(_POLL * 1000):
        check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} seconds")
    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        import os

        raise OSError(code, os.strerror(code))
    connection.setblocking(True)
