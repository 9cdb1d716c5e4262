"""Clients that send no more and still listen."""

import json
import socket
from pathlib import Path
from urllib.parse import quote

import pytest

from pybuild.client.remote import Remote
from support.fake_world import World, wait_for


@pytest.fixture
def opened(world: World) -> socket.socket:
    world.connect().__exit__(None, None, None)
    return again(world)


def again(world: World) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(20)
    peer.connect(str(world.socket))
    return peer


def build(text: str, target: str = "") -> bytes:
    body = json.dumps({"context": "/", "dockerfile_text": text, "target": target}).encode() + b"\n"
    head = (
        f"POST /build HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.pybuild.build\r\nContent-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def rest(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(65536), b""))


def test_a_whole_request_is_answered_each_time(world: World, opened: socket.socket) -> None:
    opened.close()
    for _ in range(50):
        with again(world) as peer:
            peer.sendall(b"GET /images/json HTTP/1.1\r\nHost: x\r\n\r\n")
            peer.shutdown(socket.SHUT_WR)
            answer = rest(peer)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"]")


def test_all_of_several_requests_are_answered(opened: socket.socket) -> None:
    with opened as peer:
        peer.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        peer.shutdown(socket.SHUT_WR)
        assert rest(peer).count(b"HTTP/1.1 200 ") == 3


def test_a_build_goes_on_to_its_end(world: World, opened: socket.socket) -> None:
    gate = world.base / "gate"
    with opened as peer:
        peer.sendall(build("gate", str(gate)))
        peer.shutdown(socket.SHUT_WR)
        told = b""
        while b"waiting" not in told:
            told += peer.recv(65536)
        gate.touch()
        assert b'"event":"Built"' in told + rest(peer)


def test_a_build_is_cancelled_when_the_client_is_gone(world: World, opened: socket.socket) -> None:
    with opened as peer:
        peer.sendall(build("slow"))
        peer.shutdown(socket.SHUT_WR)
        told = b""
        while b"waiting" not in told:
            told += peer.recv(65536)
        assert builds() == 1
    wait_for((world.store / "seen" / "cancelled").exists)
    wait_for(lambda: builds() == 0)


def builds() -> int:
    remote = Remote.running()
    assert remote is not None
    with remote:
        return int(remote.status()["builds"])


@pytest.mark.parametrize("body", [b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"])
def test_a_request_that_is_cut_off_is_no_request(world: World, opened: socket.socket, body: bytes) -> None:
    with opened as peer:
        peer.sendall(b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n" + body)
        peer.shutdown(socket.SHUT_WR)
        assert b"Successfully built" not in rest(peer)
    wait_for(lambda: builds() == 0)


def test_nothing_is_left_of_them(world: World, opened: socket.socket) -> None:
    opened.close()
    fds = Path(f"/proc/{world.pid()}/fd")

    def count() -> int:
        return len([*fds.iterdir()])

    before = count()
    peers = [again(world) for _ in range(20)]
    for peer in peers:
        peer.sendall(b"GET /events?" + quote("since=0").encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert count() >= before + 20
    for peer in peers:
        peer.close()
    wait_for(lambda: count() <= before)
