"""Whatever comes over the socket, the daemon goes on serving and does not grow."""

import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybuild.client.wire import Connection
from support.fake_world import World

SEED = 20261128

# Of the twenty kinds below, those that end where the daemon can tell that they are no good
COMPLETE = frozenset({3, 5, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19})


@pytest.fixture
def pid(world: World) -> int:
    world.connect().__exit__(None, None, None)
    connection = Connection(world.socket)
    found: int = connection.request("GET", "/pybuild/v1/status").json()["pid"]
    connection.close()
    return found


def memory(pid: int) -> int:
    """Return what a process has in memory, in KiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def descriptors(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


def opened(world: World) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(world.socket))
    # Only then: a full queue of the listener is an error to who may not wait
    peer.settimeout(20)
    return peer


def exchange(world: World, data: bytes, *, half_close: bool, complete: bool) -> bytes:
    """Send what is no good and return the beginning of the answer, if one is owed, or what comes back."""
    with opened(world) as peer:
        try:
            peer.sendall(data)
            if half_close:
                peer.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: peer.recv(65536), b""))
            if complete:
                return peer.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            # It has had enough
            pass
        return b""


def requests() -> Iterator[bytes]:
    """Yield two hundred requests that nobody should send."""
    chance = random.Random(SEED)
    routes = [
        "/build",
        "/images/json",
        "/images/load",
        "/images/create?fromSrc=-",
        "/events",
        "/auth",
        "/images/a/push",
    ]
    chunked = b"Host: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-tar\r\n\r\n"
    for number in range(200):
        route = chance.choice(routes).encode()
        noise = chance.randbytes(chance.randrange(1, 2000))
        yield [
            noise,
            b"\r\n" * 50 + noise,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise,
            b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (chance.choice([b"FOO", b"PATCH", b"TRACE", b"get"]), route),
            b"GET %s HTTP/9.9\r\nHost: x\r\n\r\n" % route,
            b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 20_000),
            b"GET %s HTTP/1.1\r\nHost: x\r\nX-A: %s\r\n\r\n" % (route, b"b" * 100_000),
            b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (route, b"".join(b"X-%d: y\r\n" % n for n in range(3000))),
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n" % route,
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\nabc" % route,
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n%s" % (route, noise),
            b"POST %s HTTP/1.1\r\n%szz\r\n%s" % (route, chunked, noise),
            b"POST %s HTTP/1.1\r\n%sffffffffffffffffff\r\n%s" % (route, chunked, noise),
            b"POST %s HTTP/1.1\r\n%s%x\r\n%s" % (route, chunked, len(noise) + 7, noise),
            b"POST /build?buildargs=%%7B%%22a%%22 HTTP/1.1\r\n%s0\r\n\r\n" % chunked,
            b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
            b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Type: text/x\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00{",
            b"GET /v99999999999999999999.1/info HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /images/%00%ff%0a../json HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /images/a/push HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: %s\r\nContent-Length: 0\r\n\r\n"
            % (b"e" * 4000),
        ][number % 20]


def round_of(world: World) -> list[bytes]:
    answers = []
    for number, data in enumerate(requests()):
        # /events without an end would be waited for
        half_close = number % 3 > 0 and b"/events" not in data
        answers.append(exchange(world, data, half_close=half_close, complete=number % 20 in COMPLETE))
    return answers


def serves(world: World) -> bool:
    connection = Connection(world.socket)
    try:
        return connection.request("GET", "/_ping").read() == b"OK" and bool(
            connection.request("GET", "/images/json").json()
        )
    finally:
        connection.close()


def test_malformed_requests_leave_the_daemon_as_it_was(world: World, pid: int) -> None:
    answers = round_of(world)
    owed = {number: answers[number] for number in range(200) if number % 20 in COMPLETE}
    assert len(owed) > 100
    # A context that cannot be read is told of in the stream
    assert {number % 20 for number, answer in owed.items() if not re.match(rb"HTTP/1\.[01] [45]\d\d ", answer)} == {15}
    refused = [answer for answer in answers if answer]
    assert not [answer for answer in refused if b"Traceback" in answer]
    assert not [answer for answer in refused if answer.startswith(b"HTTP/1.1 500") and b"unexpected" in answer]
    before, fds = memory(pid), descriptors(pid)
    for _ in range(3):
        round_of(world)
    assert serves(world)
    assert memory(pid) - before < 8 << 10
    assert descriptors(pid) <= fds + 8


def test_idle_slow_and_half_closed_clients_keep_nobody_waiting(world: World, pid: int) -> None:
    idle = [opened(world) for _ in range(100)]
    slow = [opened(world) for _ in range(20)]
    try:
        for number, peer in enumerate(slow):
            peer.sendall(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"[: 20 + 3 * number])
        half = [opened(world) for _ in range(20)]
        for peer in half:
            peer.sendall(b"GET /_ping HTTP/1.1\r\n")
            peer.shutdown(socket.SHUT_WR)
            peer.close()
        assert serves(world)
        # Those who were idle are still served, and who was slow may go on
        idle[0].sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: idle[0].recv(65536), b"")).endswith(b"OK")
    finally:
        for peer in (*idle, *slow):
            peer.close()
    assert serves(world)
