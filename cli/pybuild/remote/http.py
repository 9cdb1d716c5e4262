"""Files over HTTP: one GET, redirects looked at one by one, and a transfer that breaks off taken up again.

Nothing of what one host is told in confidence goes to another one, however it asks (RFC 9110, 15.4).
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event as Flag
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, ProtocolError, ProxyError, SSLError, TimeoutError
from urllib3.util import Timeout, make_headers

from pybuild import __version__
from pybuild.remote.addresses import Reach
from pybuild.remote.connections import BLOCK, Connections, port_of
from pybuild.remote.errors import RemoteError
from pybuild.remote.origins import origin, plain, reason_of
from pybuild.remote.validators import Validators, strong

MAX_REDIRECTS = 10
IDLE_SECONDS = 60.0
"""How long a server may say nothing."""

RETRIES = 3
"""How often a broken transfer is taken up, or a busy server asked, again."""

PAUSE_SECONDS = 0.5
"""Before the first of these; it doubles."""

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
        with Connections(
            self.proxies, self.ca_bundle, self.limit, self.follow, IDLE_SECONDS, self.cancel
        ) as connections:
            return _Fetching(self, connections, url, sink, secret, known or Validators(), progress).run()


class _BrokenError(RemoteError):
    """Worth another try."""


class _Fetching:
    """One file, over however many requests."""

    def __init__(
        self,
        fetcher: Fetcher,
        connections: Connections,
        url: str,
        sink: Sink,
        secret: str,
        known: Validators,
        progress: Callable[[int, int], None],
    ) -> None:
        self._fetcher = fetcher
        self._connections = connections
        self._asked = plain(url)
        self._origin = origin(url)
        self._secret = secret or _basic(url)
        self._sink = sink
        self._known = known
        self._progress = progress
        self._done = 0
        self._partial = Validators()

    def run(self) -> Answer:
        pause = PAUSE_SECONDS
        for attempt in range(RETRIES + 1):
            try:
                return self._follow()
            except _BrokenError as error:
                self._connections.check()
                if attempt == RETRIES:
                    raise RemoteError(error.message, error.hint) from error
            if self._fetcher.cancel.wait(pause):
                self._connections.check()
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
        """Return where a redirect leads; raise RemoteError where none may."""
        try:
            led = urljoin(url, location)
            parts = urlsplit(led)
            port_of(led)
        except ValueError as error:
            raise RemoteError(f"redirected to what is no address: {self._asked}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RemoteError(f"redirected to something other than HTTP: {self._asked}: {_bare(led)}")
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise RemoteError(
                f"redirected from https to http: {self._asked}: {_bare(led)}", "write the address it leads to instead"
            )
        # What a server says of users and passwords is not ours to send
        return plain(led)

    def _named(self, url: str) -> str:
        """Return what messages call a URL: a redirect often leads to one that is a secret by its query."""
        return url if url == self._asked else f"{self._asked} (redirected to {_bare(url)})"

    @contextmanager
    def _response(self, url: str) -> Iterator[urllib3.BaseHTTPResponse]:
        self._connections.check()
        try:
            pool = self._connections.pool(url)
        except (LocationValueError, ValueError) as error:
            raise RemoteError(f"not an address: {self._named(url)}: {error}") from error
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
            self._connections.check()
            raise self._explained(error, url) from error
        finally:
            pool.clear()

    def _explained(self, error: Exception, url: str) -> RemoteError:
        named = self._named(url)
        if isinstance(error, SSLError) or isinstance(error.__cause__, ssl.SSLError):
            return RemoteError(
                f"the certificate of the server is not trusted, or TLS failed: {named}: {reason_of(error)}",
                "`--ca-bundle FILE` names certificates to trust besides the system's",
            )
        if isinstance(error, ProxyError):
            return RemoteError(f"the proxy failed: {named}: {reason_of(error)}", "check HTTP_PROXY and its like")
        if isinstance(error, TimeoutError):
            return _BrokenError(f"the server said nothing for {IDLE_SECONDS:g} seconds: {named}")
        if isinstance(error, ProtocolError | OSError):
            return _BrokenError(f"the connection broke off: {named}: {reason_of(error)}")
        return RemoteError(f"cannot fetch: {named}: {reason_of(error)}")

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"User-Agent": f"pybuild/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        if self._secret and origin(url) == self._origin:
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
        elif 200 <= response.status < 300 and response.status != 206:
            if self._done:
                self._sink.restart()
            self._done = 0
        elif self._done and response.status in (206, 416):
            self._begin_anew()
            raise _BrokenError(f"the server cannot go on with a transfer that broke off: {self._named(url)}")
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
        length = _number(response.headers.get("Content-Length", ""))
        total = self._done + length if length else 0
        if total > self._fetcher.max_size:
            raise self._too_large(url)
        for block in response.stream(BLOCK, decode_content=False):
            self._connections.check()
            if self._done + len(block) > self._fetcher.max_size:
                raise self._too_large(url)
            self._sink.write(block)
            self._done += len(block)
            self._progress(self._done, total)
        if not total:
            # Now it is known how much it was
            self._progress(self._done, self._done)

    def _too_large(self, url: str) -> RemoteError:
        return RemoteError(
            f"the file is over the limit of {self._fetcher.max_size} bytes: {self._named(url)}",
            "`--max-download` raises it",
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
        return kind(f"the server answers {reason}: {self._named(url)}", hint)


def _basic(url: str) -> str:
    parts = urlsplit(url)
    if not parts.username:
        return ""
    return make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")["authorization"]


def _number(header: str) -> int:
    """Return a header's number, 0 for none that can be one."""
    return int(header) if header.isascii() and header.isdigit() and len(header) < 20 else 0


def _bare(url: str) -> str:
    """Return scheme, host and path of a URL."""
    return plain(url).partition("?")[0][:200]


def _disposition(header: str) -> str:
    """Return the name in a Content-Disposition header (RFC 6266) as a file name, "" for none that could be one."""
    from email.message import Message

    message = Message()
    message["Content-Disposition"] = header
    name = message.get_filename("") if header else ""
    name = str(name).replace("\\", "/").rpartition("/")[2]
    return "" if name in ("", ".", "..") or "\0" in name or len(name.encode(errors="replace")) > 255 else name
