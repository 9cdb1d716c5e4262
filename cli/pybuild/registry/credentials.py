"""Where credentials are kept: docker's config.json and podman's auth.json (containers-auth.json(5)).

Only an entry of the very host counts, or one of a part of it (`host/namespace/repository`) that the repository lies in:
the longest of those comes first. Both have `auths`, `credHelpers` and `credsStore`.
"""

import base64
import binascii
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from pybuild.api.request import Secret
from pybuild.oci.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN
from pybuild.registry.authorization import Credentials
from pybuild.registry.errors import AuthError
from pybuild.registry.helpers import Helper
from pybuild.registry.hosts import DOCKER_HUB

DOCKER_SERVER = "https://index.docker.io/v1/"
"""What docker calls its own registry in its files and to helpers."""

MAX_FILE = 16 << 20

NOBODY: Mapping[str, Secret] = MappingProxyType({})

_VERSIONS = ("v1", "v2")
_HUB = (DEFAULT_DOMAIN, LEGACY_DOMAIN, DOCKER_HUB)


class Look(NamedTuple):
    """One place where credentials were looked for: what it is, and what was found there."""

    place: str
    told: str
    credentials: Credentials | None = None


class CredentialFiles:
    """The files of a user; `environment` says where they are. `given` are credentials that win over all files."""

    def __init__(self, environment: Mapping[str, str], given: Mapping[str, Secret] = NOBODY) -> None:
        self._environment = environment
        self._given = given
        home = environment.get("HOME") or os.path.expanduser("~")
        self.docker = Path(environment.get("DOCKER_CONFIG") or f"{home}/.docker") / "config.json"
        override = environment.get("REGISTRY_AUTH_FILE", "")
        self.override = Path(override) if override else None
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
        self._podman = [Path(f"{runtime}/containers/auth.json")] if runtime else []
        self._podman.append(Path(f"{config}/containers/auth.json"))

    def places(self) -> list[Path]:
        """Return the files in the order in which they are asked."""
        return [*([self.override] if self.override is not None else []), self.docker, *self._podman]

    def lookup(self, host: str, part: str = "") -> Credentials | None:
        """Return the first credentials for a registry, or a part of it: a namespace or a repository.

        Raises AuthError when one who should know them fails.
        """
        return next((look.credentials for look in self.looks(host, part) if look.credentials is not None), None)

    def parts(self, host: str) -> list[str]:
        """Return the namespaces and repositories of a registry that have entries of their own, the longest first.

        A file that cannot be read has none; whoever asks for credentials is told what is wrong with it.
        """
        found: set[str] = set()
        for path in self.places():
            try:
                found.update(_parts_in(read(path) or {}, host))
            except AuthError:
                continue
        return sorted(found, key=lambda part: (-len(part), part))

    def looks(self, host: str, part: str = "") -> Iterator[Look]:
        """Yield each place in order; raises as `lookup`."""
        # Who gives them may have to be asked for each host by its name, and lists only what was asked for
        given = self._given.get(_canonical(host))
        for secret in [given, *(secret for key, secret in self._given.items() if host_in(key) == _canonical(host))]:
            if secret is not None:
                yield Look("the request", "it brings credentials", given_credentials(secret))
                return
        for path in self.places():
            document = read(path)
            if document is None:
                yield Look(str(path), "there is no such file")
                continue
            yield from self._in_file(str(path), document, host, part)

    def _in_file(self, path: str, document: Mapping[str, Any], host: str, part: str) -> Iterator[Look]:
        name, key = _helper_of(document, host)
        if not key.startswith("credHelpers"):
            # Helpers know whole registries alone; one that is named for this very registry is asked before all else
            for own, entry in _entries_of_parts(document, host, part):
                found = _credentials_in(entry, f"{path}, for {own}")
                yield Look(path, f"auths[{own}]: {who(found)}", found)
                if found is not None:
                    return
        if name:
            helper = Helper(name, self._environment)
            found = helper.get(server_of(host))
            told = f"{key}: {helper.program}"
            yield Look(path, f"{told} has {who(found)}", found)
            if found is not None or key.startswith("credHelpers"):
                return
        found = _entry(document, host, path)
        others = "" if part else ", ".join(f"{host}/{one}" for one in _parts_in(document, host))
        told = f"{who(found)}; parts of it have their own: {others}" if others else who(found)
        yield Look(path, f"auths: {told}", found)

    def store(self, host: str, credentials: Credentials) -> str:
        """Keep credentials as docker does and return where; raise AuthError."""
        path = self.override or self.docker
        document = dict(read(path) or {})
        name, _ = _helper_of(document, host)
        server = server_of(host)
        entry: dict[str, str] = {}
        where = str(path)
        if name:
            helper = Helper(name, self._environment)
            helper.store(server, credentials)
            where = helper.program
        else:
            pair = f"{credentials.username}:{credentials.password}"
            entry = {"auth": base64.b64encode(pair.encode()).decode()}
            if credentials.identity_token:
                entry["identitytoken"] = credentials.identity_token
        auths = {key: value for key, value in _auths(document).items() if host_in(key) != _canonical(host)}
        write(path, {**document, "auths": {**auths, server: entry}})
        return where

    def erase(self, host: str) -> list[str]:
        """Forget credentials in every place and return those that had any."""
        gone: list[str] = []
        for path in self.places():
            document = read(path)
            if document is None:
                continue
            name, _ = _helper_of(document, host)
            auths = _auths(document)
            kept = {key: value for key, value in auths.items() if host_in(key) != _canonical(host)}
            if name:
                helper = Helper(name, self._environment)
                if helper.get(server_of(host)) is not None:
                    helper.erase(server_of(host))
                    gone.append(helper.program)
            if len(kept) < len(auths):
                if any(auths[key] for key in auths if key not in kept):
                    gone.append(str(path))
                write(path, {**document, "auths": kept})
        return gone


def given_credentials(secret: Secret) -> Credentials | None:
    """Return what a client of docker's sends as its AuthConfig; None for who is nobody; raise AuthError."""
    try:
        entry: Any = msgspec.json.decode(secret.value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        entry = None
    if not isinstance(entry, dict):
        raise AuthError("the credentials that came with the request are no JSON object")
    return _credentials_in(entry, "the request")


def who(credentials: Credentials | None) -> str:
    """Return whose credentials they are, for people."""
    if credentials is None:
        return "nothing for it"
    return f"user {credentials.username}" if credentials.username else "an identity token"


def server_of(host: str) -> str:
    """Return what a registry is called in docker's files and by helpers."""
    return DOCKER_SERVER if host in _HUB else host


def host_in(key: str) -> str:
    """Return the host that a key of `auths` is for: with or without a scheme and docker's version.

    Podman's keys may name a part of a registry (`host/namespace`): these are no host's.
    """
    bare = key.removeprefix("https://").removeprefix("http://")
    for version in ("/v1/", "/v2/", "/v1", "/v2"):
        bare = bare.removesuffix(version)
    return _canonical(bare.rstrip("/"))


def _canonical(host: str) -> str:
    return DEFAULT_DOMAIN if host in _HUB else host


def _helper_of(document: Mapping[str, Any], host: str) -> tuple[str, str]:
    """Return the helper that keeps a host's credentials and what says so, "" for none."""
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict):
        for key, name in helpers.items():
            if host_in(key) == _canonical(host) and isinstance(name, str) and name:
                return name, f"credHelpers[{key}]"
    store = document.get("credsStore")
    return (store, "credsStore") if isinstance(store, str) and store else ("", "")


def _auths(document: Mapping[str, Any]) -> dict[str, Any]:
    auths = document.get("auths")
    return auths if isinstance(auths, dict) else {}


def _entry(document: Mapping[str, Any], host: str, path: str) -> Credentials | None:
    found = [entry for key, entry in _auths(document).items() if host_in(key) == _canonical(host)]
    entry = next((entry for entry in found if isinstance(entry, dict) and entry), None)
    return _credentials_in(entry, f"{path}, for {host}") if entry is not None else None


def _parts_in(document: Mapping[str, Any], host: str) -> list[str]:
    """Return the parts of a registry that a file has entries for, the longest first."""
    found = (key.partition("/") for key in _auths(document) if "://" not in key)
    parts = [part.strip("/") for domain, _, part in found if _canonical(domain) == _canonical(host)]
    return sorted((part for part in parts if part and part not in _VERSIONS), key=lambda part: (-len(part), part))


def _entries_of_parts(
    document: Mapping[str, Any], host: str, repository: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the entries for namespaces that a repository lies in, or for itself, the longest key first."""
    for key, entry in sorted(_auths(document).items(), key=lambda item: -len(item[0])):
        domain, _, part = key.partition("/")
        part = part.strip("/")
        if "://" in key or not part or part in _VERSIONS or _canonical(domain) != _canonical(host):
            continue
        if f"{repository}/".startswith(f"{part}/") and isinstance(entry, dict):
            yield key, entry


def _credentials_in(entry: Mapping[str, Any], where: str) -> Credentials | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials(identity_token=token)
    username, password = entry.get("username"), entry.get("password")
    if isinstance(entry.get("auth"), str) and entry["auth"]:
        try:
            pair = base64.b64decode(entry["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise AuthError(f"the credentials are damaged: {where}", "log in again with `pybuild login`") from error
        username, _, password = pair.partition(":")
        # Docker itself once wrote such ends
        password = password.rstrip("\0")
    if isinstance(username, str) and isinstance(password, str) and username:
        return Credentials(username, password)
    return None


def read(path: Path) -> dict[str, Any] | None:
    """Return a file of credentials, None when there is none; raise AuthError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AuthError(f"cannot read the credentials: {path}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise AuthError(f"the file of credentials is over {MAX_FILE} bytes: {path}")
    try:
        document: Any = msgspec.json.decode(data) if data.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # What is wrong might quote a password
        raise AuthError(f"the file of credentials is no JSON: {path}", "mend it, or move it away") from error
    if not isinstance(document, dict):
        raise AuthError(f"the file of credentials holds no JSON object: {path}", "mend it, or move it away")
    return document


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a file of credentials by one that only its owner can read; raise AuthError."""
    data = msgspec.json.format(msgspec.json.encode(document), indent=2)
    # A link to where somebody keeps such files is followed
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data + b"\n")
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AuthError(f"cannot keep the credentials: {path}: {error.strerror}") from error
