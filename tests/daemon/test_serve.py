"""The life of a daemon: start, limits, stop, idle exit, crash."""

import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybuild.api.events import Built, Failed, StepLog
from pybuild.api.request import BuildRequest
from pybuild.client import start
from pybuild.client.remote import Remote
from pybuild.client.wire import Connection
from pybuild.daemon import logs, serve
from pybuild.errors import ConflictError, UsageError
from support.fake_world import World, wait_for


def slow(text: str = "slow", target: str = "") -> BuildRequest:
    return BuildRequest(context="/", dockerfile_text=text, target=target)


def begin(remote: Remote, request: BuildRequest) -> object:
    events = remote.build(request)
    while not isinstance(next(events), StepLog):
        pass
    return events


def test_only_its_user_can_reach_it(world: World) -> None:
    world.connect().__exit__(None, None, None)
    assert stat.S_IMODE(world.runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(world.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.log.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_user_is_refused_even_where_modes_let_them(world: World) -> None:
    world.connect().__exit__(None, None, None)
    for path, mode in ((world.base, 0o755), (world.runtime, 0o711), (world.socket, 0o666)):
        path.chmod(mode)
    code = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect({str(world.socket)!r})
s.sendall(b"GET /images/json HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print(s.recv(1000).decode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "403" in done.stdout.splitlines()[0]
    world.runtime.chmod(0o700)


def test_a_second_daemon_is_refused(world: World) -> None:
    world.connect().__exit__(None, None, None)
    settings = serve.Settings(runtime_dir=world.runtime, store_root=world.store, lock_seconds=0.1)
    with pytest.raises(ConflictError, match="running already"):
        serve.run(settings)
    with world.connect() as remote:
        assert remote.images()


def test_it_ends_when_idle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_IDLE_TIMEOUT", "0.3")
    with world.connect() as remote:
        assert remote.status()["idle_timeout"] == 0.3
        assert remote.images()
    wait_for(lambda: not world.socket.exists(), 5)
    assert start.wait_for_end(start.Place(world.runtime), 5)
    assert (world.store / "flushed").exists()


def test_a_build_keeps_it_from_ending(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_IDLE_TIMEOUT", "2")
    gate = world.base / "gate"
    with world.connect() as remote:
        events = begin(remote, slow("gate", str(gate)))
        time.sleep(2.5)
        gate.touch()
        assert isinstance(list(events)[-1], Built)  # type: ignore[call-overload]


def test_sigterm_lets_builds_end_and_takes_the_socket_away(world: World) -> None:
    gate = world.base / "gate"
    with world.connect() as remote:
        pid = remote.status()["pid"]
        events = begin(remote, slow("gate", str(gate)))
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not world.socket.exists())
        gate.touch()
        assert isinstance(list(events)[-1], Built)  # type: ignore[call-overload]
    assert start.wait_for_end(start.Place(world.runtime), 5)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_builds_that_take_too_long_are_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILD_STOP_GRACE", "0.2")
    with world.connect() as remote:
        events = begin(remote, slow())
        os.kill(world.pid(), signal.SIGTERM)
        last = list(events)[-1]  # type: ignore[call-overload]
        assert isinstance(last, Failed)
        assert last.failure.kind == "CancelledError"
    assert start.wait_for_end(start.Place(world.runtime), 5)


def test_a_second_sigterm_does_not_wait(world: World) -> None:
    with world.connect() as remote:
        pid = world.pid()
        events = begin(remote, slow())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not world.socket.exists())
        os.kill(pid, signal.SIGTERM)
        assert isinstance(list(events)[-1], Failed)  # type: ignore[call-overload]
    assert start.wait_for_end(start.Place(world.runtime), 5)


def test_a_client_that_neither_sends_nor_goes_does_not_keep_it_alive(world: World) -> None:
    world.connect().__exit__(None, None, None)
    pid = world.pid()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(world.socket))
        head = b"POST /build HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head + b"5\r\nhello\r\n")
        client.recv(100)
        with Remote(Connection(world.socket)) as remote:
            remote.stop(now=True)
        began = time.monotonic()
        os.waitpid(pid, 0)
        assert time.monotonic() - began < 10


def test_a_stopping_daemon_takes_no_new_builds(world: World) -> None:
    with world.connect() as remote, world.connect() as late:
        events = begin(remote, slow())
        late.status()
        os.kill(world.pid(), signal.SIGTERM)
        wait_for(lambda: not world.socket.exists())
        with pytest.raises(ConflictError, match="stopping"):
            list(late.build(slow("x")))
        events.close()  # type: ignore[attr-defined]


def test_stop_if_idle_leaves_a_busy_one(world: World) -> None:
    with world.connect() as remote, world.connect() as other:
        events = begin(remote, slow())
        with pytest.raises(ConflictError):
            other.stop(if_idle=True)
        events.close()  # type: ignore[attr-defined]
        wait_for(lambda: other.status()["builds"] == 0)
        other.stop(if_idle=True)
    assert start.wait_for_end(start.Place(world.runtime), 5)


def test_garbage_on_the_socket_harms_nobody(world: World) -> None:
    world.connect().__exit__(None, None, None)
    for garbage in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /build HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(world.socket))
            client.sendall(garbage)
            client.settimeout(5)
            client.recv(1000)
    with world.connect() as remote:
        assert remote.images()


def test_the_log_tells_what_happened_without_controls(world: World) -> None:
    with world.connect() as remote:
        list(remote.build(slow("bug")))
        with pytest.raises(Exception, match="No such image"):
            remote.inspect("evil\x1b[2J\nname")
    text = world.log.read_text()
    assert "listens on" in text
    assert "build failed" in text
    assert "\x1b" not in text
    assert "\nname" not in text


def test_the_log_is_rotated(tmp_path: Path, world: World) -> None:
    path = tmp_path / "daemon.log"
    code = f"""
import logging, os, sys
from pathlib import Path
from pybuild.daemon import logs
path = Path({str(path)!r})
os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
logs.MAX_SIZE = 1000
logs.set_up(path)
for number in range(100):
    logging.getLogger("pybuild").info("line %d", number)
os.write(2, b"the end\\n")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert path.read_text().endswith("line 99\nthe end\n")
    assert path.stat().st_size < 1200
    assert (path.parent / "daemon.log.1").stat().st_size < 1200
    assert isinstance(logging.getLogger("pybuild"), logging.Logger)
    assert logs.MAX_SIZE > 1000


@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("1.5s", 1.5), ("10m", 600.0), ("1h", 3600.0), ("0", 0.0)])
def test_times_have_units(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("X_TIME", text)
    assert serve._seconds("X_TIME", None, 7.0) == seconds


def test_times_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_TIME", "soon")
    with pytest.raises(UsageError):
        serve._seconds("X_TIME", None, 7.0)
    monkeypatch.delenv("X_TIME")
    assert serve._seconds("X_TIME", None, 7.0) == 7.0
    assert serve._seconds("X_TIME", "2m", 7.0) == 120.0


def test_it_is_ready_soon_and_small(world: World) -> None:
    began = time.monotonic()
    with world.connect() as remote:
        took = time.monotonic() - began
        pid = remote.status()["pid"]
    # The aim is 0.3 s; the machine may be busy
    assert took < 3
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    assert int(line.split()[1]) < 60_000


def test_a_removed_runtime_directory_does_not_keep_it_alive(world: World) -> None:
    with world.connect() as remote:
        pid = remote.status()["pid"]
        shutil.rmtree(world.runtime)
        remote.stop()
    os.waitpid(pid, 0)
