"""One registry: requests with their authorisation, redirects looked at one by one, and another try where one is due."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pybuild.registry.answers import message_of, retry_after, status_text
from pybuild.registry.authorization import Authorization
from pybuild.registry.errors import BrokenError, MissingError, PlainTextError, RegistryError
from pybuild.registry.hosts import PLAIN, TRIED, Host
from pybuild.registry.transport import Response, Transport, shown
from pybuild.remote.addresses import Reach
from pybuild.remote.origins import origin

RETRIES = 4
"""How often a request is sent again after the connection broke off or the registry was busy."""

PAUSE_SECONDS = 0.5
"""Before the first of these; it doubles."""

MAX_PAUSE_SECONDS = 120.0
"""Who is told to come back later than that is told an error."""

MAX_REDIRECTS = 5
MAX_ERROR = 64 << 10
BUSY = (408, 429, 500, 502, 503, 504)

_REDIRECTS = (301, 302, 303, 307, 308)
_T = TypeVar("_T")


class Client:
    """A registry host. May be used from several threads."""

    def __init__(self, host: Host, transport: Transport, authorization: Authorization) -> None:
        self.host = host
        self.transport = transport
        self.authorization = authorization
        self._scheme = "http" if host.security == PLAIN else "https"

    def url(self, path: str) -> str:
        """Return the address of a path below /v2/."""
        return f"{self._scheme}://{self.host.address}/v2/{path}"

    def send(
        self,
        method: str,
        path: str,
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        accept: Collection[int] = (200,),
    ) -> Response:
        """Send a request to a path below /v2/, or an address that the registry gave, and return its answer.

        It is sent again where that may help, so that a body is bytes, or a function that gives it from its beginning.
        Whoever gets the answer closes it. Raises RegistryError, and CancelledError.
        """
        return self.persist(lambda: self.send_once(method, path, scopes, headers=headers, body=body, accept=accept))

    def send_once(
        self,
        method: str,
        path: str,
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        accept: Collection[int] = (200,),
    ) -> Response:
        """As `send`, without another try for what breaks off; BrokenError tells that one may help."""
        url = self._absolute(path)
        try:
            return self._authorised(method, url, scopes, headers or {}, body, accept)
        except PlainTextError:
            # Another thread may have found out meanwhile
            if self.host.security != TRIED or not url.startswith(self.url("").replace("http://", "https://")):
                raise
            self._scheme = "http"
        return self._authorised(method, self._absolute(path), scopes, headers or {}, body, accept)

    def persist(self, attempt: Callable[[], _T], progress: Callable[[], object] = lambda: None) -> _T:
        """Do something until it does not break off, with pauses; what makes `progress` has all tries anew."""
        tries, pause, before = 0, PAUSE_SECONDS, progress()
        while True:
            try:
                return attempt()
            except BrokenError as error:
                after = progress()
                if after != before:
                    tries, pause, before = 0, PAUSE_SECONDS, after
                if tries >= RETRIES or error.after > MAX_PAUSE_SECONDS:
                    raise _given_up(error, tries + 1) from error
                self.transport.wait(max(pause, error.after))
                tries, pause = tries + 1, pause * 2

    def led(self, path: str, response: Response) -> str:
        """Return the address in the Location of an answer to `path`, or that of `path` itself; raise RegistryError."""
        url = self._absolute(path)
        location = response.headers.get("Location", "")
        return self.next(url, location) if location else url

    def _absolute(self, path: str) -> str:
        return path if path.startswith(("http://", "https://")) else self.url(path)

    def _authorised(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: Any,
        accept: Collection[int],
    ) -> Response:
        for _ in range(3):
            response, at, sent = self._followed(method, url, scopes, headers, body)
            if response.status != 401 or not self._is_ours(at) or 401 in accept:
                return self._checked(response, method, at, accept)
            with response:
                self.transport.read_all(response, f"{method} {shown(at)}", MAX_ERROR)
                self.authorization.challenged(response, at, scopes, sent)
        raise self.authorization.denied(url)

    def _followed(
        self, method: str, url: str, scopes: Sequence[str], headers: Mapping[str, str], body: Any
    ) -> tuple[Response, str, str]:
        """Send a request where redirects lead; return the answer, its address and the authorisation that was sent."""
        limit = Reach.LOCAL
        for _ in range(MAX_REDIRECTS + 1):
            ours = self._is_ours(url)
            sent = self.authorization.header(scopes) if ours else ""
            given = {**headers, "Authorization": sent} if sent else dict(headers)
            trust = self.host.trust if ours else self.host.trust._replace(client=("", ""))
            data = body() if callable(body) else body
            response = self.transport.send(method, url, given, body=data, trust=trust, limit=limit)
            location = response.headers.get("Location", "")
            if method not in ("GET", "HEAD") or response.status not in _REDIRECTS or not location:
                return response, url, sent
            response.close()
            if limit is Reach.LOCAL:
                limit = self.transport.reach(url)
            url = self.next(url, location)
        raise RegistryError(f"{method} {shown(url)}: more than {MAX_REDIRECTS} redirects")

    def next(self, url: str, location: str) -> str:
        """Return the address that an answer leads to from a path or address; raise RegistryError for an unsafe one."""
        url = self._absolute(url)
        try:
            led = urljoin(url, location)
            scheme = urlsplit(led).scheme
        except ValueError as error:
            raise RegistryError(f"the registry redirects to no address: {shown(url)}: {location!r:.200}") from error
        if scheme not in ("http", "https") or (scheme == "http" and urlsplit(url).scheme == "https"):
            raise RegistryError(f"the registry redirects to something less safe: {shown(url)}: {shown(led)}")
        parts = urlsplit(led)
        # What a server says of users and passwords is not ours to send
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()

    def _is_ours(self, url: str) -> bool:
        return origin(url) == origin(self.url(""))

    def _checked(self, response: Response, method: str, url: str, accept: Collection[int]) -> Response:
        if response.status in accept:
            return response
        what = f"{method} {shown(url)}"
        with response:
            data = b"" if method == "HEAD" else self._told(response, what)
        raise self._refusal(response, what, message_of(data))

    def _told(self, response: Response, what: str) -> bytes:
        try:
            return self.transport.read_all(response, what, MAX_ERROR)
        except RegistryError:
            # The status is what matters
            return b""

    def _refusal(self, response: Response, what: str, message: str) -> RegistryError:
        status = response.status
        told = f"{what}: the registry answers {status_text(status)}" + (f": {message}" if message else "")
        if status in (401, 403):
            return self.authorization.denied(what.partition(" ")[2], status, message)
        if status == 404:
            return MissingError(told, "check the name", status=status)
        if status in BUSY:
            after = retry_after(response.headers.get("Retry-After", ""))
            hint = ""
            if status == 429 and self.authorization.credentials is None:
                hint = f"who has logged in may ask more often: `pybuild login {self.host.name}`"
            return BrokenError(told, hint, status=status, after=after)
        return RegistryError(told, status=status)


def _given_up(error: BrokenError, tries: int) -> RegistryError:
    if error.after > MAX_PAUSE_SECONDS:
        told = f"{error.message} (to be asked again in {error.after:.0f} seconds)"
    else:
        told = f"{error.message} (after {tries} tries)"
    return RegistryError(told, error.hint or "try again later, or check the network", status=error.status)
