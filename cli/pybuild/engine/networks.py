"""Which network a RUN gets: none, the host's, or the private one that the RUN steps of a build share."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from pybuild.api.events import Event, Notice
from pybuild.engine.workers import Workers
from pybuild.sandbox.errors import NetworkError
from pybuild.sandbox.spec import Network

if TYPE_CHECKING:
    from pybuild.sandbox.network import PrivateNetwork

HOST_GATEWAY = "host-gateway"
"""In place of an address: whatever leads to services of the host."""


class Joined(msgspec.Struct, frozen=True):
    """A network for one RUN. `namespace` and `resolv_conf` are those of a private one.

    `host` is the address of the host's services, "" when they cannot be reached.
    """

    mode: Network
    host: str = ""
    namespace: int | None = None
    resolv_conf: bytes | None = None

    def hosts(self, given: Sequence[str]) -> tuple[str, ...]:
        """Return "name:ip" of each extra host; raise NetworkError for a `host-gateway` there is no address for."""
        found: list[str] = []
        for item in given:
            name, _, address = item.partition(":")
            if address == HOST_GATEWAY:
                if not self.host:
                    raise NetworkError(f"this network does not reach the host: {item}", "give an address instead")
                address = self.host
            found.append(f"{name}:{address}")
        return tuple(found)


class Networks:
    """Use it with `with`: the end of it ends the private network. Safe to be used by several threads."""

    def __init__(self, workers: Workers, emit: Callable[[Event], None]) -> None:
        self._workers = workers
        self._emit = emit
        self._lock = Lock()
        self._private: PrivateNetwork | None = None
        self._shared: Joined | None = None

    def __enter__(self) -> "Networks":
        return self

    def __exit__(self, *_: object) -> None:
        if self._private is not None:
            self._private.close()
            self._private = None

    def get(self, wanted: str) -> Joined:
        """Return the network for a RUN that wants none, host, private or default: private, or else the host's.

        The private one starts when it is first asked for. Raises NetworkError for a private one that cannot be had.
        """
        match wanted:
            case "none":
                return Joined("none", host="127.0.0.1")
            case "host":
                return Joined("host", host="127.0.0.1")
            case "private":
                return self._get_private(fall_back=False)
            case _:
                return self._get_private(fall_back=True)

    def _get_private(self, *, fall_back: bool) -> Joined:
        from pybuild.sandbox.network import find_helpers, host_address
        from pybuild.sandbox.resolv import private_resolv_conf

        with self._lock:
            if self._shared is not None:
                return self._shared
            try:
                self._private = self._workers.open_network(find_helpers())
            except NetworkError as error:
                if not fall_back:
                    raise
                # The commands see more than they would: that is worth a line
                self._emit(Notice("info", f"RUN uses the network of the host: {error.message}"))
                self._shared = Joined("host", host="127.0.0.1")
                return self._shared
            self._shared = Joined("private", host_address() or "", self._private.namespace, private_resolv_conf())
            return self._shared
