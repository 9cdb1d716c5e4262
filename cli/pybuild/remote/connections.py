"""Connections for HTTP: to hosts that may be reached, or to the user's proxy, and ended when the build is cancelled."""

import socket
import ssl
from collections.abc import Callable, Mapping
from threading import Event as Flag
from threading import Thread
from typing import Self
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import make_headers, parse_url

from pybuild.errors import CancelledError
from pybuild.remote.addresses import Bounds, Reach, connect, judge_literal
from pybuild.remote.proxies import proxy_for
from pybuild.remote.trust import system_context

BLOCK = 1 << 20
_POLL = 0.1


class Connections:
    """The connections for one file. Use it with `with`.

    `limit` and `follow` are as in `http.Fetcher`, `seconds` is how long a server may say nothing.
    """

    def __init__(
        self,
        proxies: Mapping[str, str],
        ca_bundle: str,
        limit: Reach,
        follow: Reach | None,
        seconds: float,
        cancel: Flag,
    ) -> None:
        self._proxies = proxies
        self._ca_bundle = ca_bundle
        self._bounds = Bounds(limit, follow)
        self._seconds = seconds
        self._cancel = cancel
        self._tls: ssl.SSLContext | None = None
        self._sockets: list[socket.socket] = []
        self._over = Flag()
        self._watcher = Thread(target=self._watch, name="fetch", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()
        for connection in self._sockets:
            connection.close()

    def check(self) -> None:
        """Raise CancelledError when the build is to end."""
        if self._cancel.is_set():
            raise CancelledError("the build was cancelled")

    def pool(self, url: str) -> urllib3.PoolManager:
        """Return a pool for one request, the caller's to clear; raise AddressError, ValueError."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        proxy = proxy_for(parts.scheme, host, port_of(url), self._proxies)
        # Reading the system's certificates takes a while
        context = self._context() if "https" in (parts.scheme, proxy[:5]) else None
        manager: urllib3.PoolManager
        if proxy:
            self._bounds.arrive(judge_literal(host, self._bounds.limit))
            user = parse_url(proxy).auth
            headers = make_headers(proxy_basic_auth=unquote(user)) if user else {}
            manager = urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=context, blocksize=BLOCK)
        else:
            manager = urllib3.PoolManager(ssl_context=context, blocksize=BLOCK)
        manager.pool_classes_by_scheme = pool_classes(self._open)
        return manager

    def _watch(self) -> None:
        """Wake up whoever reads from a connection when the build is cancelled."""
        while not self._over.wait(_POLL):
            if self._cancel.is_set():
                for connection in list(self._sockets):
                    _shut(connection)
                return

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = system_context({})
            if self._ca_bundle:
                self._tls.load_verify_locations(cadata=self._ca_bundle)
        return self._tls

    def _open(self, host: str, port: int, is_proxy: bool) -> socket.socket:
        """Connect to a host that may be reached, or to a proxy, which is the user's own."""
        connection, reach = connect(host, port, Reach.LOCAL if is_proxy else self._bounds.limit, self.check)
        if not is_proxy:
            self._bounds.arrive(reach)
        connection.settimeout(self._seconds)
        # TLS takes the descriptor of the first one away
        self._sockets.append(connection.dup())
        # Perhaps the watcher did not see this one any more
        self.check()
        return connection


def pool_classes(
    opened: Callable[[str, int, bool], socket.socket], connected: Callable[[HTTPConnection], None] = lambda _: None
) -> dict[str, type[HTTPConnectionPool]]:
    """Return pools whose connections `opened` makes: (host, port, is it a proxy).

    `connected` is told of each once it is ready, TLS included.
    """

    def new(connection: HTTPConnection) -> socket.socket:
        return opened(connection._dns_host.strip("[]"), connection.port or 0, connection.proxy is not None)

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return new(self)

        def connect(self) -> None:
            super().connect()
            connected(self)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return new(self)

        def connect(self) -> None:
            super().connect()
            connected(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def port_of(url: str) -> int:
    """Return the port that a URL means; raise ValueError for one that cannot be."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme.lower() == "https" else 80)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The other side was faster
        return
