"""BuildKit's services on the socket: by an upgrade, by prior knowledge, and what nonsense does to them."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from pybuild.buildkit import messages
from pybuild.buildkit.grpc import Code, GrpcError, unary
from pybuild.buildkit.http2 import Connection
from pybuild.client.wire import Connection as Http
from support.fake_world import World

CONTROL = "/moby.buildkit.v1.Control/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
T = TypeVar("T")


def talk(world: World, ask: Callable[[Connection], Awaitable[T]], upgrade: str = "") -> T:
    """Give a client of the daemon, after an upgrade of `upgrade` or at once."""

    async def run() -> T:
        reader, writer = await asyncio.open_unix_connection(world.socket)
        if upgrade:
            writer.write(f"POST {upgrade} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        connection = Connection(writer.write, is_client=True)

        async def read() -> None:
            while data := await reader.read(1 << 16):
                connection.receive(data)
            connection.lost()

        reading = asyncio.create_task(read())
        try:
            return await asyncio.wait_for(ask(connection), 20)
        finally:
            reading.cancel()
            writer.close()
            await writer.wait_closed()

    return asyncio.run(run())


@pytest.fixture
def served(world: World) -> World:
    world.connect().__exit__(None, None, None)
    return world


def raw(world: World, data: bytes, rest: bytes = b"") -> bytes:
    """Send bytes, and `rest` when something has come back; return all that comes until the daemon closes."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(world.socket))
        peer.sendall(data)
        found = b""
        try:
            if rest:
                found = peer.recv(1 << 16)
                peer.sendall(rest)
            if data.startswith(PREFACE) or rest:
                # A frame may be announced that never comes
                peer.shutdown(socket.SHUT_WR)
            while more := peer.recv(1 << 16):
                found += more
        except OSError as error:
            # It had its end before we had ours
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
        return found


def test_workers_are_told_on_both_ways(served: World) -> None:
    async def ask(connection: Connection) -> list[str]:
        answer = messages.WORKERS.decode(await unary(connection, CONTROL + "ListWorkers", b""))
        [worker] = answer["record"]
        return [platform["OS"] for platform in worker["platforms"]]

    for upgrade in ("", "/grpc", "/v1.45/grpc"):
        assert talk(served, ask, upgrade) == ["linux"]


def test_a_preface_that_comes_byte_by_byte_is_one(served: World) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(served.socket))
        for byte in PREFACE + bytes.fromhex("000000040000000000"):
            peer.sendall(bytes([byte]))
        # A frame of settings: its type is the fourth byte
        assert peer.recv(9)[3] == 4


WRONG = [
    (CONTROL + "Nothing", b"", Code.UNIMPLEMENTED, "unknown method"),
    ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", b"", Code.UNIMPLEMENTED, "unknown method"),
    (CONTROL + "Solve", b"", Code.INVALID_ARGUMENT, "needs a reference"),
    (CONTROL + "Solve", b"\x0b", Code.UNKNOWN, "malformed message"),
    (CONTROL + "Solve", messages.SOLVE.encode({"Ref": "a", "Definition": b"x"}), Code.UNIMPLEMENTED, "LLB"),
    (CONTROL + "Solve", messages.SOLVE.encode({"Ref": "b", "Frontend": "other"}), Code.UNIMPLEMENTED, "frontend"),
    (
        CONTROL + "Solve",
        messages.SOLVE.encode({"Ref": "c", "Frontend": "dockerfile.v0", "Exporters": [{"Type": "x"}]}),
        Code.UNKNOWN,
        "unknown exporter: x",
    ),
]


def test_what_cannot_be_is_told_by_a_status(served: World) -> None:
    async def ask(connection: Connection) -> list[GrpcError]:
        errors = []
        for path, message, _, _ in WRONG:
            with pytest.raises(GrpcError) as failed:
                await unary(connection, path, message)
            errors.append(failed.value)
        return errors

    for error, (_, _, code, told) in zip(talk(served, ask), WRONG, strict=True):
        assert (error.code, told in error.message) == (code, True), error.message


def test_who_asks_for_no_upgrade_is_told(served: World) -> None:
    for request, status in (
        (b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"400"),
        (b"POST /session HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"400"),
        (b"POST /session HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n", b"400"),
        (b"GET /grpc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
    ):
        assert raw(served, request).split()[1] == status


def test_nonsense_ends_its_own_connection_alone(served: World) -> None:
    session = b"POST /session HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nX-Docker-Expose-Session-Uuid: %d\r\n\r\n"
    grpc = b"POST /grpc HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n"
    for number in range(20):
        rest = bytes([number]) * 200
        raw(served, PREFACE + rest)
        assert raw(served, grpc, b"GET / HTTP/1.1\r\n\r\n" + rest).startswith(b"HTTP/1.1 101 ")
        assert raw(served, session % number, rest).startswith(b"HTTP/1.1 101 ")
    http = Http(served.socket)
    assert http.request("GET", "/_ping").read() == b"OK"
    # Those connections count no more: nothing keeps the daemon
    assert http.request("GET", "/pybuild/v1/status").json()["builds"] == 0
    http.close()
