"""HTTP to registries: connections that are kept, made only where they may lead, and broken for a cancelled build."""

import socket
import ssl
from collections.abc import Mapping
from threading import Event as Flag
from threading import Lock, Thread, get_ident
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote
from weakref import WeakSet

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InsecureRequestWarning,
    LocationValueError,
    ProtocolError,
    ProxyError,
    SSLError,
    TimeoutError,
)
from urllib3.util import Timeout, make_headers, parse_url

from pybuild import __version__
from pybuild.errors import CancelledError
from pybuild.registry.errors import BrokenError, PlainTextError, RegistryError
from pybuild.remote.addresses import Reach, connect, judge_literal
from pybuild.remote.connections import BLOCK, pool_classes
from pybuild.remote.errors import AddressError, RemoteError
from pybuild.remote.origins import origin, plain, reason_of
from pybuild.remote.proxies import proxy_for
from pybuild.remote.trust import system_context

IDLE_SECONDS = 60.0
"""How long a server may say nothing."""

KEPT_CONNECTIONS = 8
"""How many idle connections to one host are kept."""

Response = urllib3.BaseHTTPResponse

_POLL = 0.1
# What OpenSSL says when the other side answers in plain text, or hangs up on what it does not understand
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")


class Trust(NamedTuple):
    """Which servers are believed, and what they are shown.

    `ca` are files of certificates (PEM) trusted besides the system's, `client` files of a certificate and its key,
    "" for none. Without `verify` any server is believed.
    """

    ca: tuple[str, ...] = ()
    client: tuple[str, str] = ("", "")
    verify: bool = True


SYSTEM = Trust()
NOTHING: Mapping[str, str] = MappingProxyType({})


class Transport:
    """Requests of one build or command, from any number of threads; use it with `with`.

    `proxies` are HTTP_PROXY and its like, `ca_bundle` certificates (PEM) trusted besides the system's. `environment`
    may say where those are (SSL_CERT_FILE, SSL_CERT_DIR).
    """

    def __init__(
        self, proxies: Mapping[str, str], ca_bundle: str, cancel: Flag, environment: Mapping[str, str] = NOTHING
    ) -> None:
        self._proxies = proxies
        self._environment = environment
        self._ca_bundle = ca_bundle
        self._cancel = cancel
        self._lock = Lock()
        self._pools: dict[tuple[Any, ...], urllib3.PoolManager] = {}
        self._contexts: dict[Trust, ssl.SSLContext] = {}
        self._reaches: dict[tuple[str, int], Reach] = {}
        self._connections: WeakSet[Any] = WeakSet()
        self._opening: dict[int, socket.socket] = {}
        self._over = Flag()
        self._watcher: Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        for pool in self._pools.values():
            pool.clear()
        for connection in self._opening.values():
            connection.close()

    def check(self) -> None:
        """Raise CancelledError when the build was cancelled."""
        if self._cancel.is_set():
            raise CancelledError("the build was cancelled")

    def wait(self, seconds: float) -> None:
        """Wait, but for no cancelled build."""
        self._cancel.wait(seconds)
        self.check()

    def reach(self, url: str) -> Reach:
        """Return how near the host of a URL is that was connected to; PUBLIC where a proxy did that."""
        return self._reaches.get(origin(url)[1:], Reach.PUBLIC)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: Any = None,
        trust: Trust = SYSTEM,
        limit: Reach = Reach.LOCAL,
    ) -> Response:
        """Send one request and return its answer, whatever its status; whoever gets it closes it.

        `limit` is how near the host may be. Raises BrokenError for what may go well the next time, PlainTextError,
        RegistryError, AddressError, CancelledError.
        """
        self.check()
        self._watch()
        given = {"User-Agent": f"pybuild/{__version__}", "Accept-Encoding": "identity", **headers}
        try:
            return self._pool(url, trust, limit).request(
                method,
                url,
                body=body,
                headers=given,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=IDLE_SECONDS, read=IDLE_SECONDS),
            )
        except (LocationValueError, ValueError) as error:
            raise RegistryError(f"not an address: {shown(url)}: {error}") from error
        except (HTTPError, OSError) as error:
            self.check()
            raise explained(error, f"{method} {shown(url)}") from error
        except AddressError as error:
            raise RegistryError(f"{method} {shown(url)}: {error.message}") from error
        except RemoteError as error:
            self.check()
            cause = error.__cause__
            # A name that nobody knows and a port that nobody listens at will not change in a moment
            lasting = isinstance(cause, socket.gaierror | ConnectionRefusedError | UnicodeError)
            raise (RegistryError if lasting else BrokenError)(
                f"{method} {shown(url)}: {error.message}", error.hint
            ) from error

    def read(self, response: Response, what: str, size: int = BLOCK) -> bytes:
        """Return what has come of a body, at most `size` bytes, b"" at its end; raises as `send`."""
        self.check()
        try:
            return response.read1(size)
        except (HTTPError, OSError) as error:
            self.check()
            raise explained(error, what) from error

    def read_all(self, response: Response, what: str, limit: int) -> bytes:
        """Return the whole body; raise RegistryError for one over `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        while data := self.read(response, what, min(BLOCK, limit + 1)):
            parts.append(data)
            size += len(data)
            if size > limit:
                raise RegistryError(f"{what}: the answer is over the limit of {limit} bytes")
        return b"".join(parts)

    def _pool(self, url: str, trust: Trust, limit: Reach) -> urllib3.PoolManager:
        scheme, host, port = origin(url)
        if scheme not in ("http", "https"):
            raise ValueError("only http and https are spoken")
        key = (scheme, host, port, trust, limit)
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._make_pool(scheme, host, port, trust, limit)
            return self._pools[key]

    def _make_pool(self, scheme: str, host: str, port: int, trust: Trust, limit: Reach) -> urllib3.PoolManager:
        proxy = proxy_for(scheme, host, port, self._proxies)
        # Reading the system's certificates takes a while
        context = self._context(trust) if "https" in (scheme, proxy[:5]) else None
        options: dict[str, Any] = {"ssl_context": context, "blocksize": BLOCK, "maxsize": KEPT_CONNECTIONS}
        if not trust.verify:
            options |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
            # Whoever asked for this need not be told at each connection
            urllib3.disable_warnings(InsecureRequestWarning)
        manager: urllib3.PoolManager
        if proxy:
            judge_literal(host, limit)
            user = parse_url(proxy).auth
            headers = make_headers(proxy_basic_auth=unquote(user)) if user else {}
            manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
        else:
            manager = urllib3.PoolManager(**options)

        def opened(host: str, port: int, is_proxy: bool) -> socket.socket:
            return self._open(host, port, Reach.LOCAL if is_proxy else limit, is_proxy=is_proxy)

        manager.pool_classes_by_scheme = pool_classes(opened, self._connected)
        return manager

    def _context(self, trust: Trust) -> ssl.SSLContext:
        if trust not in self._contexts:
            context = system_context(self._environment)
            if not trust.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            try:
                if self._ca_bundle:
                    context.load_verify_locations(cadata=self._ca_bundle)
                for path in trust.ca:
                    context.load_verify_locations(cafile=path)
                if trust.client[0]:
                    context.load_cert_chain(*trust.client)
            except (ssl.SSLError, OSError) as error:
                files = ", ".join(filter(None, (*trust.ca, *trust.client)))
                raise RegistryError(f"cannot use certificates: {files}: {reason_of(error)}") from error
            self._contexts[trust] = context
        return self._contexts[trust]

    def _open(self, host: str, port: int, limit: Reach, *, is_proxy: bool) -> socket.socket:
        connection, reach = connect(host, port, limit, self.check)
        if not is_proxy:
            self._reaches[host, port] = reach
        connection.settimeout(IDLE_SECONDS)
        # TLS takes the descriptor of the first one away; until it is agreed on, this one can be shut
        with self._lock:
            former = self._opening.pop(get_ident(), None)
            self._opening[get_ident()] = connection.dup()
        if former is not None:
            former.close()
        return connection

    def _connected(self, connection: Any) -> None:
        with self._lock:
            opening = self._opening.pop(get_ident(), None)
            self._connections.add(connection)
        if opening is not None:
            opening.close()

    def _watch(self) -> None:
        with self._lock:
            if self._watcher is None:
                self._watcher = Thread(target=self._wait_for_end, name="registry", daemon=True)
                self._watcher.start()

    def _wait_for_end(self) -> None:
        """Wake up whoever waits for a server when the build is cancelled."""
        while not self._over.wait(_POLL):
            if self._cancel.is_set():
                with self._lock:
                    sockets = [connection.sock for connection in self._connections] + [*self._opening.values()]
                for found in sockets:
                    if found is not None:
                        _shut(found)
                return


def _shut(connection: socket.socket) -> None:
    try:
        # Not the method of a TLS socket, which would take away what another thread is reading with
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        # The other side was faster
        return


def shown(url: str) -> str:
    """Return a URL as it may be told: without user, password and query, which may be a signature."""
    return plain(url).partition("?")[0][:300]


def _host_in(what: str) -> str:
    """Return host and port in a method and its URL, as directories of certificates are called."""
    return what.rpartition("://")[2].partition("/")[0] or "HOST"


def explained(error: Exception, what: str) -> RegistryError:
    """Return the error for what went wrong with a request, `what` being its method and URL."""
    if isinstance(error, ProxyError):
        return RegistryError(f"{what}: the proxy failed: {reason_of(error)}", "check HTTP_PROXY and its like")
    if isinstance(error, SSLError) or isinstance(error.__cause__, ssl.SSLError):
        why = reason_of(error)
        if any(word in str(error) for word in _NO_TLS):
            return PlainTextError(
                f"{what}: the server does not speak TLS: {why}",
                "if it is a registry without TLS, say so: `--insecure-registry HOST`",
            )
        return RegistryError(
            f"{what}: the certificate of the server is not trusted, or TLS failed: {why}",
            f"put its CA into ~/.config/containers/certs.d/{_host_in(what)}/ca.crt; "
            "a build also takes `--ca-bundle FILE`",
        )
    if isinstance(error, TimeoutError | socket.timeout):
        return BrokenError(f"{what}: the server said nothing for {IDLE_SECONDS:g} seconds")
    if isinstance(error, ProtocolError | OSError):
        return BrokenError(f"{what}: the connection broke off: {reason_of(error)}")
    return RegistryError(f"{what}: {reason_of(error)}")
