"""Proving who asks: Basic, and Bearer tokens (docker's token specification, which OCI registries follow).

Credentials belong to one host. They go to no other one, but for the token server of its own domain that the registry
names, over TLS.
"""

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from threading import RLock
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from pybuild.registry.answers import message_of
from pybuild.registry.challenge import Challenge, parse_challenges
from pybuild.registry.errors import AuthError, RegistryError
from pybuild.registry.hosts import Host, is_loopback
from pybuild.registry.transport import Response, Transport, Trust, shown

MAX_TOKEN = 1 << 20
"""Largest answer of a token server, in bytes."""

CLIENT_ID = "pybuild"

_LEAST_SECONDS = 60.0
"""How long a token is good when nothing is said."""

_EARLY_SECONDS = 10.0

_FRESH_SECONDS = 30.0
"""A token that is refused so soon has not run out."""


class Credentials(NamedTuple):
    """Who asks: a name and a password, or a token from which others are made (`identity_token`)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, ****)"


Lookup = Callable[[str], Credentials | None]
"""Returns the credentials for a host's name."""


class _Token(NamedTuple):
    """A token, and from when until when it is good, by the monotonic clock."""

    text: str
    since: float
    until: float


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None
    refresh_token: str = ""


class Authorization:
    """What one host is told of who asks; may be used from several threads.

    `realms` are addresses of token servers that are believed for a host, by its name.
    """

    def __init__(self, host: Host, transport: Transport, lookup: Lookup, realms: Mapping[str, str]) -> None:
        self._host = host
        self._transport = transport
        self._lookup = lookup
        self._realms = realms
        self._lock = RLock()
        self._credentials: Credentials | None = None
        self._looked_up = False
        self._basic = False
        self._bearer: Challenge | None = None
        self._url = ""
        self._tokens: dict[tuple[str, ...], _Token] = {}

    @property
    def credentials(self) -> Credentials | None:
        """Return who asks, None for nobody in particular; looked up when first needed."""
        with self._lock:
            if not self._looked_up:
                self._credentials = self._lookup(self._host.name)
                self._looked_up = True
            return self._credentials

    def header(self, scopes: Sequence[str]) -> str:
        """Return the Authorization header for a request, "" while the host has not asked for one."""
        with self._lock:
            if self._basic and self.credentials is not None:
                return _basic(self.credentials)
            if self._bearer is None:
                return ""
            return f"Bearer {self._token(tuple(sorted(scopes)))}"

    def challenged(self, response: Response, url: str, scopes: Sequence[str], sent: str) -> None:
        """Take in what a 401 asks for, `sent` being the header that was not enough; raise AuthError if nothing is left.

        Afterwards `header` gives another answer.
        """
        challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
        by_scheme = {challenge.scheme: challenge for challenge in challenges}
        with self._lock:
            self._url = url
            bearer = by_scheme.get("bearer")
            if bearer is not None and bearer.parameters.get("realm"):
                key = tuple(sorted(scopes))
                known = self._tokens.get(key)
                if known is not None and sent == f"Bearer {known.text}":
                    del self._tokens[key]
                    if time.monotonic() - known.since < _FRESH_SECONDS:
                        raise self.denied(url)
                self._bearer, self._basic = bearer, False
                return
            if "basic" in by_scheme:
                if self.credentials is None or sent:
                    raise self.denied(url)
                self._check_secrecy(url)
                self._basic = True
                return
        raise self.denied(url)

    def denied(self, url: str, status: int = 401, why: str = "") -> AuthError:
        """Return the error for a request that is not allowed."""
        name = self._host.name
        credentials = self.credentials
        told = f": {why}" if why else ""
        if credentials is None:
            return AuthError(
                f"{shown(url)}: access is denied to who has not logged in{told}",
                f"check the name; if it is right, `pybuild login {name}`",
                status=status,
            )
        who = f"user {credentials.username}" if credentials.username else "the owner of the token"
        return AuthError(
            f"{shown(url)}: access is denied to {who}{told}",
            f"check the name; `pybuild auth why {name}` tells where this user comes from",
            status=status,
        )

    def _check_secrecy(self, url: str) -> None:
        """Passwords go over TLS, or to this machine, or where the user says that it need not be safe."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or "") and self._host.trust.verify:
            raise AuthError(
                f"a password is not sent in plain text: {shown(url)}",
                f"`--insecure-registry {self._host.name}` allows it",
            )

    def _token(self, scopes: tuple[str, ...]) -> str:
        token = self._tokens.get(scopes)
        if token is None or time.monotonic() > token.until:
            token = self._tokens[scopes] = self._fetch(scopes)
        return token.text

    def _fetch(self, scopes: tuple[str, ...]) -> _Token:
        assert self._bearer is not None
        realm = self._bearer.parameters["realm"]
        service = self._bearer.parameters.get("service", "")
        asked = scopes or tuple(filter(None, (self._bearer.parameters.get("scope", ""),)))
        credentials = self.credentials if self._believed(realm) else None
        if credentials is not None and credentials.identity_token:
            return self._refresh(realm, service, asked, credentials.identity_token)
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in asked]
        headers = {}
        if credentials is not None:
            query.append(("account", credentials.username))
            headers["Authorization"] = _basic(credentials)
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        return self._ask("GET", url, headers, None)

    def _refresh(self, realm: str, service: str, scopes: tuple[str, ...], token: str) -> _Token:
        """The OAuth2 way (docker's `POST /token`): a token that came with logging in gives others."""
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": CLIENT_ID,
            "scope": " ".join(scopes),
            "refresh_token": token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._ask("POST", realm, headers, urlencode(form).encode())

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> _Token:
        # A registry may send us no nearer than it is itself
        limit = self._transport.reach(self._url)
        what = f"{method} {shown(url)}"
        asked_at = time.monotonic()
        response = self._transport.send(method, url, headers, body=body, trust=self._trust_for(url), limit=limit)
        with response:
            data = self._transport.read_all(response, what, MAX_TOKEN)
        if response.status in (400, 401, 403):
            raise self.denied(url, response.status, message_of(data))
        if response.status != 200:
            raise RegistryError(
                f"{what}: the token server answers {response.status}: {message_of(data)}".removesuffix(": "),
                status=response.status,
            )
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RegistryError(f"{what}: the token server's answer is not to be understood: {error}") from error
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{what}: the token server gives no token")
        seconds = max(answer.expires_in or 0.0, _LEAST_SECONDS) - _EARLY_SECONDS
        return _Token(token, asked_at, asked_at + seconds)

    def _trust_for(self, url: str) -> Trust:
        same = urlsplit(url).hostname == urlsplit(self._url).hostname
        # A client's certificate is for its registry alone
        return self._host.trust if same else Trust(ca=self._host.trust.ca)

    def _believed(self, realm: str) -> bool:
        """May a token server be shown the credentials of its registry?"""
        theirs, ours = urlsplit(realm), urlsplit(self._url)
        configured = self._realms.get(self._host.name, "")
        if configured and realm == configured:
            return True
        if theirs.scheme != "https" and theirs.scheme != ours.scheme:
            return False
        if theirs.scheme != "https" and not is_loopback(theirs.hostname or "") and self._host.trust.verify:
            return False
        return belongs_to(theirs.hostname or "", ours.hostname or "")


def belongs_to(realm: str, registry: str) -> bool:
    """Is a token server's host the registry's own, above it, or beside it in the same domain of an organisation?"""
    if realm == registry:
        return True
    if not all(_is_name(host) for host in (realm, registry)):
        return False
    above = registry.partition(".")[2]
    if realm == above:
        return _is_owned(realm)
    return _is_owned(above) and realm.endswith("." + above)


def _is_name(host: str) -> bool:
    return not is_loopback(host) and not host.replace(".", "").isdigit() and ":" not in host


def _is_owned(domain: str) -> bool:
    """Could a domain be somebody's, rather than one below which everybody may have names, as `com` and `co.uk`?"""
    labels = domain.split(".")
    if len(labels) < 2:
        return False
    return len(labels) > 2 or len(labels[1]) > 2 or len(labels[0]) > 3


def _basic(credentials: Credentials) -> str:
    text = f"{credentials.username}:{credentials.password}"
    return "Basic " + base64.b64encode(text.encode()).decode()
