"""The registries of a build or command: opened when the first one is needed, each with what the user says of it."""

from collections.abc import Mapping
from functools import partial
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, Self

from pybuild.api.request import Registries
from pybuild.oci.reference import Reference

if TYPE_CHECKING:
    from pybuild.registry.authorization import Lookup
    from pybuild.registry.blobs import Source
    from pybuild.registry.client import Client
    from pybuild.registry.mirrors import Mirrors
    from pybuild.registry.transport import Transport


class RegistryClients:
    """Clients by the domain of a name; use it with `with`. May be used from several threads.

    `lookup` finds credentials, by itself those that the user has logged in with.
    """

    def __init__(
        self,
        settings: Registries,
        proxies: Mapping[str, str],
        ca_bundle: str,
        cancel: Flag,
        lookup: "Lookup | None" = None,
    ) -> None:
        self._settings = settings
        self._proxies = proxies
        self._ca_bundle = ca_bundle
        self._cancel = cancel
        self._lookup = lookup
        self._lock = Lock()
        self._transport: Transport | None = None
        self._clients: dict[tuple[str, bool, str], Client] = {}
        self._parts: dict[str, list[str]] = {}
        self._mirrors: Mirrors | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.__exit__()

    def sources(self, name: Reference, *, pull: bool = True) -> "list[Source]":
        """Return the repositories that an image may be in, in the order in which to ask; without `pull` no mirrors.

        Raises RegistryError for settings that cannot be used.
        """
        # Most builds ask no registry, and this takes longer than a cached one
        from pybuild.registry.blobs import Source
        from pybuild.registry.mirrors import Mirrors

        with self._lock:
            if self._mirrors is None:
                self._mirrors = Mirrors(self._settings.environment)
            places = self._mirrors.places(name, pull=pull)
            return [Source(self._client(place.domain, place.insecure, place.path), place.path) for place in places]

    def _client(self, domain: str, insecure: bool, repository: str) -> "Client":
        from pybuild.registry.authorization import Authorization
        from pybuild.registry.client import Client
        from pybuild.registry.credentials import CredentialFiles
        from pybuild.registry.hosts import host_of
        from pybuild.registry.transport import Transport

        environment = self._settings.environment
        if self._transport is None:
            self._transport = Transport(self._proxies, self._ca_bundle, self._cancel, environment)
        files = CredentialFiles(environment, self._settings.given)
        if domain not in self._parts:
            self._parts[domain] = [] if self._lookup else files.parts(domain)
        # Repositories that are asked for as somebody else have a client of their own
        part = next((part for part in self._parts[domain] if f"{repository}/".startswith(f"{part}/")), "")
        key = (domain, insecure, part)
        if key not in self._clients:
            allowed = {*self._settings.insecure, domain} if insecure else {*self._settings.insecure}
            host = host_of(domain, allowed, environment)
            lookup = self._lookup or partial(files.lookup, part=part)
            authorization = Authorization(host, self._transport, lookup, self._settings.realms)
            self._clients[key] = Client(host, self._transport, authorization)
        return self._clients[key]
