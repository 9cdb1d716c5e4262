"""The daemon of another machine over TLS, each side with a certificate."""

import selectors
import socket
import ssl
from threading import Thread

from pybuild.client.errors import DaemonError
from pybuild.client.hosts import Host
from pybuild.errors import UsageError

HANDSHAKE_SECONDS = 30.0
_PIECE = 1 << 18


class Tls:
    """A link over TLS.

    One thread alone uses the connection, which takes no two at once; it copies between that and a pair of sockets.
    """

    def __init__(self, host: Host, connected: socket.socket) -> None:
        """Shake hands; raise DaemonError, UsageError for certificates that cannot be used. `connected` is ours."""
        self._host = host
        self._error: OSError | None = None
        self._heard = False
        try:
            connected.settimeout(HANDSHAKE_SECONDS)
            self._outer = _context(host).wrap_socket(connected, server_hostname=host.machine)
            self._outer.setblocking(False)
        except OSError as error:
            connected.close()
            self._error = error
            raise self.why() or DaemonError(f"cannot reach {host.url}") from error
        except BaseException:
            connected.close()
            raise
        self.socket, self._inner = socket.socketpair()
        self._inner.setblocking(False)
        Thread(target=self._run, daemon=True, name="tls").start()

    def why(self) -> DaemonError | None:
        error = self._error
        if error is None:
            # This is how asyncio's servers refuse a certificate: without the alert that would say so
            return None if self._heard else _refused(self._host, "it hung up")
        if isinstance(error, ssl.SSLCertVerificationError):
            return DaemonError(
                f"the certificate of {self._host.url} is not trusted: {error.verify_message}",
                f"it must name {self._host.machine} and come from {self._host.ca}",
            )
        if isinstance(error, ssl.SSLError):
            reason = (error.reason or str(error)).lower().replace("_", " ")
            return _refused(self._host, reason)
        return DaemonError(f"the connection to {self._host.url} broke: {error.strerror or error}")

    def close(self) -> None:
        # The thread sees that and closes what is its own
        self.socket.close()

    def _run(self) -> None:
        with self._inner, self._outer:
            try:
                self._copy()
            except OSError as error:
                # Before the other end of the pair hears of it
                self._error = error

    def _copy(self) -> None:
        """Copy both ways until one side ends and what came from it has gone; raise OSError."""
        there, back = _Way(self._inner, self._outer), _Way(self._outer, self._inner)
        while True:
            waits: dict[socket.socket, int] = {}
            moved = [way.step(waits) for way in (there, back)]
            self._heard = self._heard or bool(back.held) or (moved[1] and not back.ended)
            if any(way.ended and not way.held for way in (there, back)):
                return
            if any(moved):
                continue
            with selectors.DefaultSelector() as selector:
                for waiting, events in waits.items():
                    selector.register(waiting, events)
                selector.select()


def _refused(host: Host, reason: str) -> DaemonError:
    return DaemonError(f"no TLS with {host.url}: {reason}", "it lets in who has a `cert` of its CA")


def _context(host: Host) -> ssl.SSLContext:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(host.ca)
        context.load_cert_chain(host.cert, host.key, password=_no_password)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot use the certificates for {host.name}: {told}", "ca, cert and key are files in PEM"
        ) from error
    return context


def _no_password() -> str:
    # It would ask on the terminal
    raise ValueError("the key has a password")


class _Way:
    """Bytes on their way from one socket to the other."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.held = memoryview(b"")
        self.ended = False

    def step(self, waits: dict[socket.socket, int]) -> bool:
        """Move what can be moved now; note what is waited for otherwise. Tell whether anything moved."""
        moved = False
        try:
            if not self.held and not self.ended:
                data = self.source.recv(_PIECE)
                self.held, self.ended, moved = memoryview(data), not data, True
        except (BlockingIOError, ssl.SSLWantReadError):
            waits[self.source] = waits.get(self.source, 0) | selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            waits[self.source] = waits.get(self.source, 0) | selectors.EVENT_WRITE
        try:
            if self.held:
                self.held = self.held[self.sink.send(self.held) :]
                moved = True
        except (BlockingIOError, ssl.SSLWantWriteError):
            waits[self.sink] = waits.get(self.sink, 0) | selectors.EVENT_WRITE
        except ssl.SSLWantReadError:
            waits[self.sink] = waits.get(self.sink, 0) | selectors.EVENT_READ
        return moved
