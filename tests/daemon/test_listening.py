"""The daemon over TCP, and with sockets that somebody else has made."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pybuild.api.events import Built, StepLog
from pybuild.api.request import BuildRequest
from pybuild.client import connect
from pybuild.client.distant import Distant
from pybuild.client.errors import DaemonError
from pybuild.client.hosts import find
from pybuild.client.remote import Remote
from support.certificates import Certificates
from support.fake_world import World, wait_for

DAEMON = [sys.executable, "-P", "-m", "support.fake_engine"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def running(world: World, *words: str, **options: object) -> Iterator[list[str]]:
    """Run a daemon and give the addresses it listens on."""
    reader, writer = os.pipe()
    process = subprocess.Popen([*DAEMON, "--ready-fd", str(writer), *words], pass_fds=[writer], **options)
    os.close(writer)
    with open(reader, "rb") as ready, process:
        try:
            assert ready.read(1) == b"\n"
            remote = Remote.running()
            assert remote is not None
            with remote:
                yield remote.status()["listens"]
        finally:
            process.terminate()


def refused(*words: str) -> str:
    """Return what a daemon says that does not begin."""
    done = subprocess.run([*DAEMON, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    return done.stderr


def tcp(listens: list[str]) -> tuple[str, int]:
    [address] = [text for text in listens if text.startswith("tcp:")]
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def asked(address: tuple[str, int], *headers: str, context: ssl.SSLContext | None = None) -> str:
    """Ask for the images and return the status line and the body."""
    with socket.create_connection(address, timeout=20) as plain:
        connected = plain if context is None else context.wrap_socket(plain, server_hostname=address[0])
        with connected:
            lines = ("GET /images/json HTTP/1.1", "Connection: close", *headers)
            connected.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            return b"".join(iter(lambda: connected.recv(65536), b"")).decode()


def turned_away(address: tuple[str, int], context: ssl.SSLContext | None) -> bool:
    """Tell whether there was no answer. In TLS 1.3 a client hears of it when it reads, or its words are not taken."""
    try:
        return asked(address, "Host: localhost", context=context) == ""
    except (ssl.SSLError, ConnectionError):
        return True


def trusting(directory: Path, *, certificate: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "ca.pem")
    if certificate:
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


def test_tls_lets_in_who_has_a_certificate_of_its_own_authority(world: World, certificates: Certificates) -> None:
    words = [word for option in certificates.words() for word in option.split("=", 1)]
    with running(world, "--listen", "tcp://127.0.0.1:0", *words) as listens:
        address = tcp(listens)
        assert asked(address, "Host: any.example", context=trusting(certificates.client)).startswith("HTTP/1.1 200 ")
        for context in (trusting(certificates.client, certificate=False), trusting(certificates.other)):
            assert turned_away(address, context)
        assert turned_away(address, None)
        browser = asked(address, "Host: x", "Origin: https://evil.example", context=trusting(certificates.client))
        assert browser.startswith("HTTP/1.1 403 ")


def test_our_client_speaks_tls(world: World, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for option in certificates.words() for word in option.split("=", 1)]
    with running(world, "--listen", "tcp://127.0.0.1:0", *words) as listens:
        url = f"tcp://127.0.0.1:{tcp(listens)[1]}"
        monkeypatch.setenv("PYBUILD_CERT_PATH", str(certificates.client))
        context = world.base / "context"
        context.mkdir()
        (context / "Dockerfile").write_text("noisy")
        (context / "big").write_bytes(os.urandom(3 << 20))
        with Distant(find(url)) as remote:
            assert remote.images()
            events = list(remote.build(BuildRequest(context=str(context))))
            assert isinstance(events[-1], Built)
            told = [event.text for event in events if isinstance(event, StepLog)]
            assert told[1:] == [f"line {number}\n" for number in range(50_000)]
            assert int(told[0].split()[2]) > 3 << 20
        monkeypatch.setenv("PYBUILD_CERT_PATH", str(certificates.other))
        with pytest.raises(DaemonError, match=f"no TLS with {url}: "):
            Distant(find(url))
        (certificates.other / "ca.pem").write_text((certificates.other / "cert.pem").read_text())
        with pytest.raises(DaemonError, match="is not trusted"):
            Distant(find(url))


def test_a_cancelled_build_over_tls_ends(
    world: World, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for option in certificates.words() for word in option.split("=", 1)]
    monkeypatch.setenv("PYBUILD_CERT_PATH", str(certificates.client))
    with running(world, "--listen", "tcp://127.0.0.1:0", *words) as listens:
        with Distant(find(f"tcp://localhost:{tcp(listens)[1]}")) as remote:
            events = remote.build(BuildRequest(context="https://x.example/y", dockerfile_text="slow"))
            while not isinstance(next(events), StepLog):
                pass
            events.close()
        wait_for((world.store / "seen" / "cancelled").exists)


def test_without_tls_it_is_loopback_and_no_browser(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(world, "--listen", "tcp://127.0.0.1:0", "--listen", "tcp://[::1]:0") as listens:
        assert len(listens) == 3
        for address in [text for text in listens if text.startswith("tcp:")]:
            host, port = tcp([address])
            names = [f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", f"[::1]:{port}", "127.3.2.1"]
            assert [asked((host, port), f"Host: {name}")[9:12] for name in names] == ["200"] * 5
            strangers = [
                "evil.example",
                f"evil.example:{port}",
                "localhost.evil.example",
                "10.0.0.1",
                "",
                "[::2]",
                "::1x",
            ]
            assert [asked((host, port), f"Host: {name}")[9:12] for name in strangers] == ["403"] * 7
            assert asked((host, port), "Host: localhost", "Origin: null")[9:12] == "403"
            assert asked((host, port), "Host: localhost", "Sec-Fetch-Site: cross-site")[9:12] == "403"
            monkeypatch.setenv("PYBUILD_HOST", address)
            monkeypatch.delenv("PYBUILD_INLINE", raising=False)
            with connect() as backend:
                assert backend.images()


def test_that_is_warned_about(world: World) -> None:
    world.runtime.mkdir(mode=0o700)
    with world.log.open("wb") as log, running(world, "--listen", "tcp://127.0.0.1:0", stderr=log):
        remote = Remote.running()
        assert remote is not None
        with remote:
            # The environment says nothing of an idle exit
            assert remote.status()["idle_timeout"] == 0
    assert "has no TLS: whoever can run a program on this machine can build as you" in world.log.read_text()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://0.0.0.0:0", "without TLS nobody else's machine is let in"),
        ("tcp://[::]:0", "without TLS nobody else's machine is let in"),
        ("tcp://10.1.2.3:99", "without TLS nobody else's machine is let in"),
        ("tcp://127.0.0.1", "cannot listen there"),
        ("tcp://127.0.0.1:70000", "cannot listen there"),
        ("tcp://1.2.3:1", "not an address"),
        ("tcp://example.org:1", "cannot listen there"),
        ("unix:///x", "cannot listen there"),
        (":99", "cannot listen there"),
    ],
)
def test_where_it_does_not_listen(world: World, address: str, words: str) -> None:
    assert words in refused("--listen", address)


def test_tls_takes_all_of_it(world: World, certificates: Certificates) -> None:
    key = str(certificates.server / "key.pem")
    assert "together" in refused("--listen", "tcp://0.0.0.0:0", "--tls-key", key)
    absent = ("--tls-ca", key, "--tls-cert", str(world.base / "absent"), "--tls-key", key)
    assert "cannot use the certificates" in refused("--listen", "tcp://0.0.0.0:0", *absent)


@contextmanager
def activated(world: World, *listeners: socket.socket, notify: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """Start a daemon as systemd does, with `listeners` as its descriptors from 3 on."""
    code = (
        "import os, sys\n"
        "fds = list(map(int, sys.argv[1].split(',')))\n"
        "high = [os.dup2(fd, 100 + at) for at, fd in enumerate(fds)]\n"
        "[os.dup2(fd, 3 + at) for at, fd in enumerate(high)]\n"
        "os.closerange(3 + len(fds), 200)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    fds = [listener.fileno() for listener in listeners]
    environment = {**os.environ, **({"NOTIFY_SOCKET": notify} if notify else {})}
    command = [sys.executable, "-c", code, ",".join(map(str, fds)), *DAEMON]
    process = subprocess.Popen(command, pass_fds=fds, env=environment, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.terminate()


def test_a_socket_of_systemds_is_served_and_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, socket.socket(socket.AF_UNIX) as listener:
        manager.bind("\0" + f"pybuild-test-{os.getpid()}")
        manager.settimeout(20)
        listener.bind(str(world.socket))
        listener.listen(10)
        for _ in range(2):
            with activated(world, listener, notify=f"@pybuild-test-{os.getpid()}"):
                # Before it is ready: who comes first is not lost
                with Remote.connect() as remote:
                    assert remote.status()["listens"] == [f"unix://{world.socket}"]
                assert manager.recv(1000).startswith(b"READY=1\n")
            assert manager.recv(1000) == b"STOPPING=1"
            assert world.socket.exists()


def test_other_sockets_come_besides_its_own(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, activated(world, listener):
        world.wait(world.socket)
        port = listener.getsockname()[1]
        assert asked(("127.0.0.1", port), "Host: localhost")[9:12] == "200"


def test_a_socket_for_everybody_is_refused_without_tls(world: World) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener, activated(world, listener) as process:
        assert process.stderr is not None
        assert b"without TLS nobody else's machine is let in" in process.stderr.read()
        assert process.wait(20) == 2


def test_descriptors_of_another_process_are_left_alone(world: World) -> None:
    environment = {**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1"}
    with running(world, env=environment) as listens:
        assert listens == [f"unix://{world.socket}"]


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd is not installed")
def test_systemd_socket_activate_starts_it(world: World) -> None:
    world.runtime.mkdir(mode=0o700)
    kept = [f"--setenv={name}" for name in os.environ if name.startswith("PY")]
    command = ["systemd-socket-activate", "-l", str(world.socket), *kept, *DAEMON]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            world.wait(world.socket)
            with Remote.connect() as remote:
                # It became the daemon
                assert remote.status()["pid"] == process.pid
        finally:
            process.terminate()
    world.socket.unlink()
