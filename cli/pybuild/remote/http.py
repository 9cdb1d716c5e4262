"""Files over HTTP: one GET, redirects looked at one by one, and a transfer that breaks off taken up again.

Nothing of what one host is told in confidence goes to another one, however it asks (RFC 9110, 15.4).
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread
from typing import NamedTuple, Protocol, Self
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError, ProtocolError, ProxyError, SSLError, TimeoutError
from urllib3.util import Timeout, make_headers, parse_url

from pybuild import __version__
from pybuild.errors import CancelledError
from pybuild.remote.addresses import Reach, connect, reach_of, refused
from pybuild.remote.errors import RemoteError
from pybuild.remote.proxies import proxy_for
from pybuild.remote.validators import Validators, strong

MAX_REDIRECTS = 10
IDLE_SECONDS = 60.0
"""How long a server may say nothing."""

RETRIES = 3
"""How often a broken transfer is taken up, or a busy server asked, again."""

PAUSE_SECONDS = 0.5
"""Before the first of these; it doubles."""

BLOCK = 1 << 20
_POLL = 0.1
_BUSY = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)


class Sink(Protocol):
    """Where a file goes."""

    def write(self, data: bytes) -> None:
        """Append."""

    def restart(self) -> None:
        """Forget what was written."""


class Answer(NamedTuple):
    """How a file was had, and from which URL at last.

    `name` is what the server calls it, "" mostly; with `unchanged` nothing was written.
    """

    unchanged: bool
    validators: Validators
    name: str
    url: str


class Fetcher(NamedTuple):
    """How a build reaches others.

    `limit` is the nearest reach that may be asked at first, `follow` the one redirects may lead to; with `follow`
    None that is the reach of the first host. `ca_bundle` are certificates (PEM) trusted besides the system's.
    `max_size` is in bytes.
    """

    proxies: Mapping[str, str]
    ca_bundle: str
    limit: Reach
    follow: Reach | None
    max_size: int
    cancel: Flag

    def fetch(
        self,
        url: str,
        sink: Sink,
        *,
        secret: str = "",
        known: Validators | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Answer:
        """Write the file at `url` to `sink`, unless it still is the `known` one.

        `secret` is the value of an Authorization header, for the host of `url` alone. `progress` is told bytes done
        and expected (0 unknown). Raises RemoteError, AddressError, CancelledError.
        """
        with _Fetching(self, url, sink, secret, known or Validators(), progress) as fetching:
            return fetching.run()


class _BrokenError(RemoteError):
    """Worth another try."""


class _Fetching:
    """One file, over however many requests."""

    def __init__(
        self,
        fetcher: Fetcher,
        url: str,
        sink: Sink,
        secret: str,
        known: Validators,
        progress: Callable[[int, int], None],
    ) -> None:
        self._fetcher = fetcher
        self._asked = _plain(url)
        self._origin = _origin(url)
        self._secret = secret or _basic(url)
        self._sink = sink
        self._known = known
        self._progress = progress
        self._done = 0
        self._partial = Validators()
        self._reach: Reach | None = None
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

    def _watch(self) -> None:
        """Wake up whoever reads from a connection when the build is cancelled."""
        while not self._over.wait(_POLL):
            if self._fetcher.cancel.is_set():
                for connection in list(self._sockets):
                    _shut(connection)
                return

    def _check(self) -> None:
        if self._fetcher.cancel.is_set():
            raise CancelledError("the build was cancelled")

    def run(self) -> Answer:
        pause = PAUSE_SECONDS
        for attempt in range(RETRIES + 1):
            try:
                return self._follow()
            except _BrokenError as error:
                self._check()
                if attempt == RETRIES:
                    raise RemoteError(error.message, error.hint) from error
            if self._fetcher.cancel.wait(pause):
                self._check()
            pause *= 2
        raise AssertionError

    def _follow(self) -> Answer:
        """Ask, and ask where that leads to, until there is a file."""
        url = self._asked
        for _ in range(MAX_REDIRECTS + 1):
            with self._response(url) as response:
                if response.status not in _REDIRECTS or not response.headers.get("Location"):
                    return self._take(response, url)
                url = self._next(url, response.headers["Location"])
        raise RemoteError(f"more than {MAX_REDIRECTS} redirects: {self._asked}")

    def _next(self, url: str, location: str) -> str:
        led = urljoin(url, location)
        scheme = urlsplit(led).scheme
        if scheme not in ("http", "https"):
            raise RemoteError(f"redirected to something other than HTTP: {self._asked}: {_shown(led)}")
        if urlsplit(url).scheme == "https" and scheme == "http":
            raise RemoteError(
                f"redirected from https to http: {self._asked}: {_shown(led)}", "write the address it leads to instead"
            )
        # What a server says of users and passwords is not ours to send
        return _plain(led)

    @contextmanager
    def _response(self, url: str) -> Iterator[urllib3.BaseHTTPResponse]:
        self._check()
        try:
            pool = self._pool(url)
        except (LocationValueError, ValueError) as error:
            raise RemoteError(f"not an address: {url}: {error}") from error
        try:
            response = pool.request(
                "GET",
                url,
                headers=self._headers(url),
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=IDLE_SECONDS, read=IDLE_SECONDS),
            )
            try:
                yield response
            finally:
                response.close()
        except (HTTPError, OSError) as error:
            self._check()
            raise self._explained(error, url) from error
        finally:
            pool.clear()

    def _explained(self, error: Exception, url: str) -> RemoteError:
        if isinstance(error, SSLError) or isinstance(error.__cause__, ssl.SSLError):
            return RemoteError(
                f"the certificate of the server is not trusted, or TLS failed: {url}: {_reason(error)}",
                "`--ca-bundle FILE` names certificates to trust besides the system's",
            )
        if isinstance(error, ProxyError):
            return RemoteError(f"the proxy failed: {url}: {_reason(error)}", "check HTTP_PROXY and its like")
        if isinstance(error, TimeoutError | socket.timeout):
            return _BrokenError(f"the server said nothing for {IDLE_SECONDS:g} seconds: {url}")
        if isinstance(error, ProtocolError | OSError):
            return _BrokenError(f"the connection broke off: {url}: {_reason(error)}")
        return RemoteError(f"cannot fetch: {url}: {_reason(error)}")

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        proxy = proxy_for(parts.scheme, parts.hostname, port, self._fetcher.proxies)
        # Reading the system's certificates takes a while
        context = self._context() if "https" in (parts.scheme, proxy[:5]) else None
        manager: urllib3.PoolManager
        if proxy:
            self._check_literal(parts.hostname)
            user = parse_url(proxy).auth
            headers = make_headers(proxy_basic_auth=unquote(user)) if user else {}
            manager = urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=context, blocksize=BLOCK)
        else:
            manager = urllib3.PoolManager(ssl_context=context, blocksize=BLOCK)
        manager.pool_classes_by_scheme = _pools(self._open)
        return manager

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            if self._fetcher.ca_bundle:
                self._tls.load_verify_locations(cadata=self._fetcher.ca_bundle)
        return self._tls

    def _check_literal(self, host: str) -> None:
        """A proxy looks names up itself; an address is one we know."""
        try:
            reach = reach_of(host)
        except ValueError:
            reach = Reach.PUBLIC
        self._arrive(host, reach)

    def _limit(self) -> Reach:
        if self._reach is None:
            return self._fetcher.limit
        return self._reach if self._fetcher.follow is None else max(self._fetcher.follow, self._reach)

    def _arrive(self, host: str, reach: Reach) -> None:
        if reach > self._limit():
            raise refused(host, host, reach)
        if self._reach is None:
            self._reach = reach

    def _open(self, host: str, port: int, is_proxy: bool) -> socket.socket:
        """Connect to a host that may be reached, or to a proxy, which is the user's own."""
        connection, reach = connect(host, port, Reach.LOCAL if is_proxy else self._limit(), self._check)
        if not is_proxy:
            self._arrive(host, reach)
        connection.settimeout(IDLE_SECONDS)
        # TLS takes the descriptor of the first one away
        self._sockets.append(connection.dup())
        return connection

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"User-Agent": f"pybuild/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        if self._secret and _origin(url) == self._origin:
            headers["Authorization"] = self._secret
        if self._done:
            headers["Range"] = f"bytes={self._done}-"
            headers["If-Range"] = strong(self._partial)
        elif self._known.etag:
            headers["If-None-Match"] = self._known.etag
        elif self._known.last_modified:
            headers["If-Modified-Since"] = self._known.last_modified
        return headers

    def _take(self, response: urllib3.BaseHTTPResponse, url: str) -> Answer:
        told = Validators(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
        name = _disposition(response.headers.get("Content-Disposition", ""))
        if response.status == 304 and any(self._known) and not self._done:
            return Answer(True, self._known, name, url)
        if self._done and response.status == 206 and self._continues(response):
            told = self._partial
        elif response.status == 200:
            if self._done:
                self._sink.restart()
            self._done = 0
        elif self._done and response.status in (206, 416):
            self._begin_anew()
            raise _BrokenError(f"the server cannot go on with a transfer that broke off: {url}")
        else:
            raise self._refusal(response.status, url)
        self._partial = told
        try:
            self._copy(response, url)
        except (HTTPError, OSError):
            # Without a version to name, what comes next might be of another one
            if not strong(told):
                self._begin_anew()
            raise
        return Answer(False, told, name, url)

    def _begin_anew(self) -> None:
        self._sink.restart()
        self._done = 0

    def _continues(self, response: urllib3.BaseHTTPResponse) -> bool:
        return response.headers.get("Content-Range", "").startswith(f"bytes {self._done}-")

    def _copy(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        length = response.headers.get("Content-Length", "")
        total = self._done + int(length) if length.isdigit() else 0
        if total > self._fetcher.max_size:
            raise self._too_large(url)
        for block in response.stream(BLOCK, decode_content=False):
            self._check()
            if self._done + len(block) > self._fetcher.max_size:
                raise self._too_large(url)
            self._sink.write(block)
            self._done += len(block)
            self._progress(self._done, total)

    def _too_large(self, url: str) -> RemoteError:
        return RemoteError(
            f"the file is over the limit of {self._fetcher.max_size} bytes: {url}", "`--max-download` raises it"
        )

    def _refusal(self, status: int, url: str) -> RemoteError:
        from http import HTTPStatus

        try:
            reason = f"{status} {HTTPStatus(status).phrase}"
        except ValueError:
            reason = str(status)
        hint = ""
        if status in (401, 403):
            host = urlsplit(url).hostname
            hint = f"a secret gives access: `--secret id=HTTP_AUTH_TOKEN_{host},env=...`"
        kind = _BrokenError if status in _BUSY else RemoteError
        return kind(f"the server answers {reason}: {url}", hint)


def _pools(opened: Callable[[str, int, bool], socket.socket]) -> dict[str, type[HTTPConnectionPool]]:
    """Return pools whose connections `opened` makes: (host, port, is it a proxy)."""

    def new(connection: HTTPConnection) -> socket.socket:
        return opened(connection._dns_host.strip("[]"), connection.port or 0, connection.proxy is not None)

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return new(self)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return new(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The other side was faster
        return


def _plain(url: str) -> str:
    """Return a URL without user, password and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname or "", parts.port or (443 if parts.scheme.lower() == "https" else 80)


def _basic(url: str) -> str:
    parts = urlsplit(url)
    if not parts.username:
        return ""
    return make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")["authorization"]


def _shown(url: str) -> str:
    return _plain(url)[:200]


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    reason = getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or str(cause)
    return " ".join(str(reason).split())[:200]


def _disposition(header: str) -> str:
    """Return the name in a Content-Disposition header (RFC 6266) as a file name, "" for none that could be one."""
    from email.message import Message

    message = Message()
    message["Content-Disposition"] = header
    name = message.get_filename("") if header else ""
    name = str(name).replace("\\", "/").rpartition("/")[2]
    return "" if name in ("", ".", "..") or "\0" in name or len(name.encode(errors="replace")) > 255 else name
