"""The registries of a build or command: opened when the first one is needed, each with what the user says of it."""

from collections.abc import Mapping
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, Self

from pybuild.api.request import Registries

if TYPE_CHECKING:
    from pybuild.registry.authorization import Lookup
    from pybuild.registry.client import Client
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
        self._clients: dict[str, Client] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.__exit__()

    def of(self, domain: str) -> "Client":
        """Return the client for a domain."""
        # Most builds ask no registry, and this takes longer than a cached one
        from pybuild.registry.authorization import Authorization
        from pybuild.registry.client import Client
        from pybuild.registry.credentials import CredentialFiles
        from pybuild.registry.hosts import host_of
        from pybuild.registry.transport import Transport

        with self._lock:
            if self._transport is None:
                self._transport = Transport(self._proxies, self._ca_bundle, self._cancel)
            if domain not in self._clients:
                host = host_of(domain, dict.fromkeys(self._settings.insecure, True))
                lookup = self._lookup or CredentialFiles(self._settings.environment).lookup
                authorization = Authorization(host, self._transport, lookup, self._settings.realms)
                self._clients[domain] = Client(host, self._transport, authorization)
            return self._clients[domain]
