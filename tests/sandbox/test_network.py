"""A private network: reaches out, is not reached, does not reach the host's loopback, and leaves nothing behind."""

import os
import select
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pybuild.sandbox import network, resolv
from pybuild.sandbox.errors import NetworkError
from pybuild.sandbox.network import Helper, PrivateNetwork, find_helpers, open_private
from support import processes

from .conftest import Box, Ran

pytestmark = pytest.mark.userns

KINDS = ("pasta", "slirp4netns")


def helper(kind: str) -> Helper:
    return next(found for found in find_helpers() if found.kind == kind)


@pytest.fixture(params=KINDS)
def private(request: pytest.FixtureRequest, box: Box) -> Iterator[PrivateNetwork]:
    """A private network in the box, by each helper there is."""
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    opened = open_private(box.worker, [helper(request.param)])
    yield opened
    opened.close()


def run(box: Box, private: PrivateNetwork, script: str) -> Ran:
    spec = box.spec("/bin/sh", "-c", script, network="private", resolv_conf=resolv.private_resolv_conf())
    fds = [os.open(box.place, os.O_TMPFILE | os.O_RDWR) for _ in range(3)]
    job = box.worker.submit("run", [spec, box.worker.mode], [*fds, private.namespace])
    return box.finish(spec, job, fds)


@contextmanager
def greeter(address: str) -> Iterator[tuple[int, list[bytes]]]:
    """Give the port of a service that greets whoever comes, and a list of what they said."""
    said: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(5)
                peer.sendall(b"welcome\n")
                said.append(peer.recv(100))

    with socket.create_server((address, 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], said
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.tun
def test_private_network_has_an_interface_and_a_way_out(box: Box, private: PrivateNetwork) -> None:
    ran = run(box, private, "ip -o -4 addr show eth0; ip route; ls /sys/class/net; cat /etc/resolv.conf")
    assert f"inet {network.ADDRESS}/24" in ran.out
    assert f"default via {network.GATEWAY}" in ran.out
    assert ran.out.split()[-2:] == ["nameserver", resolv.NAME_SERVER] or "nameserver 10.0.2.3\n" in ran.out
    assert "lo" in ran.out.split()


@pytest.mark.tun
def test_services_of_the_host_are_reached_by_its_address_only(box: Box, private: PrivateNetwork) -> None:
    address = network.host_address()
    if address is None:
        pytest.skip("this machine has no route out")
    # Not closed at once: older versions of pasta lose the answer of one in a dozen such connections
    with greeter(address) as (port, _):
        assert run(box, private, f"sleep 1 | timeout 5 nc -w 2 {address} {port}").out == "welcome\n"
    with greeter("127.0.0.1") as (port, said):
        for target in ("127.0.0.1", network.GATEWAY, resolv.NAME_SERVER, "0.0.0.0", "10.0.2.100", address):
            ran = run(box, private, f"timeout 2 nc -w 1 {target} {port} </dev/null")
            assert (target, ran.out) == (target, "")
        assert said == []


@pytest.mark.tun
def test_abstract_sockets_of_the_host_are_out_of_reach(box: Box, private: PrivateNetwork) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0pybuild-test-abstract")
        assert "pybuild-test-abstract" in Path("/proc/net/unix").read_text()
        assert "pybuild-test-abstract" not in run(box, private, "cat /proc/net/unix").out


@pytest.mark.tun
def test_what_listens_in_it_is_not_reached_from_the_host(box: Box, private: PrivateNetwork) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    result: list[Ran] = []
    listening = threading.Thread(
        target=lambda: result.append(run(box, private, f"timeout 2 nc -l -p {port} </dev/null"))
    )
    listening.start()
    try:
        for _ in range(10):
            time.sleep(0.1)
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=0.2)
    finally:
        listening.join()


@pytest.mark.tun
def test_sandboxes_share_one_network(box: Box, private: PrivateNetwork) -> None:
    names = {run(box, private, "readlink /proc/self/ns/net").out for _ in range(2)}
    assert len(names) == 1
    assert names != {os.readlink("/proc/self/ns/net") + "\n"}


@pytest.mark.tun
def test_commands_cannot_change_it(box: Box, private: PrivateNetwork) -> None:
    ran = run(box, private, "ip link set eth0 down; ip addr add 192.0.2.9/24 dev eth0; ip route del default; true")
    assert "permitted" in ran.err
    assert f"default via {network.GATEWAY}" in run(box, private, "ip route").out


@pytest.mark.tun
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["closed", "worker killed", "socket closed"])
def test_nothing_is_left_behind(box: Box, kind: str, end: str) -> None:
    if not shutil.which(kind):
        pytest.skip(f"{kind} is not installed")
    private = open_private(box.worker, [helper(kind)])
    running = os.pidfd_open(helper_of(private, box))
    assert not ended(running, 0)
    if end == "worker killed":
        os.kill(box.worker.pid, 9)
    if end == "socket closed":
        # As when this process dies without a word
        private._channel.close()
    else:
        private.close()
    assert ended(running, 20)
    os.close(running)


def helper_of(private: PrivateNetwork, box: Box) -> int:
    """Return the process id of the helper; pasta is not our descendant."""
    if private.helper.kind == "pasta":
        return int(Path(f"/proc/self/fdinfo/{private._process}").read_text().partition("\nPid:")[2].split()[0])
    (found,) = (p for p in processes.below(box.worker.pid) if p.command and p.command[0].endswith("slirp4netns"))
    return found.pid


def ended(process: int, seconds: float) -> bool:
    """Whether the process of this descriptor has ended, waiting so long for it."""
    return bool(select.select([process], [], [], seconds)[0])


@pytest.mark.tun
def test_another_helper_takes_over_from_one_that_fails(full_box: Box, tmp_path: Path) -> None:
    if not shutil.which("slirp4netns"):
        pytest.skip("slirp4netns is not installed")
    broken = tmp_path / "pasta"
    broken.write_text("#!/bin/sh\necho no template interface >&2\nexit 3\n")
    broken.chmod(0o755)
    private = open_private(full_box.worker, [Helper("pasta", str(broken)), helper("slirp4netns")])
    try:
        assert private.helper.kind == "slirp4netns"
    finally:
        private.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_helper_says_when_it_fails_is_told(full_box: Box, tmp_path: Path, kind: str) -> None:
    broken = tmp_path / "helper"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(NetworkError, match=f"{kind} failed: it is broken"):
        open_private(full_box.worker, [Helper(kind, str(broken))])  # type: ignore[arg-type]
    # The worker works on
    assert full_box.sh("true").status == 0


def test_machine_without_a_helper_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkError, match="neither `pasta` nor `slirp4netns`") as caught:
        find_helpers()
    assert "passt" in caught.value.hint


def test_device_that_cannot_be_opened_is_told_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pasta").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkError, match="cannot be opened: No such file") as caught:
        find_helpers(str(tmp_path / "tun"))
    assert "--network=host" in caught.value.hint
    (tmp_path / "tun").touch()
    assert [found.kind for found in find_helpers(str(tmp_path / "tun"))] == ["pasta"]


def test_name_servers_of_the_host_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "resolv.conf"
    theirs.write_text("# local\nnameserver 127.0.0.53\nnameserver ::1\nsearch example.org\noptions edns0\n")
    monkeypatch.setattr(resolv, "_HOST", str(theirs))
    assert resolv.private_resolv_conf() == b"nameserver 10.0.2.3\nsearch example.org\noptions edns0\n"
    theirs.unlink()
    assert resolv.private_resolv_conf() == b"nameserver 10.0.2.3\n"
