import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pybuild
from pybuild.api.events import Built, StepLog
from pybuild.api.request import BuildRequest
from pybuild.client import remote as remote_module
from pybuild.client import start
from pybuild.client.errors import DaemonBusyError, DaemonError
from pybuild.client.remote import Remote
from pybuild.client.wire import Connection
from pybuild.daemon import serve
from support.fake_world import World


def test_client_and_daemon_agree_on_their_files() -> None:
    where = start.Place(Path("/run"))
    assert (where.socket.name, where.lock.name) == (serve.SOCKET, serve.LOCK)


def test_many_clients_at_once_start_one_daemon(world: World) -> None:
    pids = []

    def ask() -> None:
        with world.connect() as remote:
            pids.append(remote.status()["pid"])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 6
    assert len(set(pids)) == 1


def test_after_a_crash_the_next_client_starts_anew(world: World) -> None:
    world.connect().__exit__(None, None, None)
    world.kill()
    assert world.socket.exists()
    with world.connect() as remote:
        assert remote.images()


def test_a_daemon_that_cannot_start_says_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import sys; print('no luck', file=sys.stderr)"]
    monkeypatch.setattr(start, "daemon_command", lambda: command)
    began = time.monotonic()
    with pytest.raises(DaemonError, match="did not start: no luck"):
        world.connect()
    assert time.monotonic() - began < 5


def test_a_missing_program_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "daemon_command", lambda: ["/no/such/program"])
    with pytest.raises(DaemonError, match="cannot start the daemon: No such file"):
        world.connect()


def test_what_is_no_daemon_is_told(world: World) -> None:
    start.place()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(world.socket))
        other.listen()

        def answer() -> None:
            client, _ = other.accept()
            client.sendall(b"SSH-2.0-OpenSSH\r\n")
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DaemonError, match="no pybuild daemon"):
            world.connect()
        thread.join()
    world.socket.unlink()


def test_an_idle_daemon_of_another_version_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.connect() as remote:
        old = remote.status()["pid"]
    real = remote_module._status

    def as_if_old(connection: Connection) -> dict[str, object]:
        told = real(connection)
        return {**told, "version": "0.0.1"} if told["pid"] == old else told

    monkeypatch.setattr(remote_module, "_status", as_if_old)
    with world.connect() as remote:
        assert remote.status()["pid"] != old


def test_a_busy_daemon_of_another_version_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.connect() as remote:
        events = remote.build(BuildRequest(context="/", dockerfile_text="slow"))
        while not isinstance(next(events), StepLog):
            pass
        monkeypatch.setattr(remote_module, "__version__", "9.9.9")
        with pytest.raises(DaemonBusyError) as caught:
            world.connect()
        assert pybuild.__version__ in caught.value.message
        assert "pybuild daemon stop" in caught.value.hint
        events.close()


def test_a_daemon_of_another_store_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.connect() as remote:
        old = remote.status()["pid"]
    monkeypatch.setenv("PYBUILD_STORE", str(world.base / "other"))
    with world.connect() as remote:
        status = remote.status()
    assert status["pid"] != old
    assert status["store"] == str(world.base / "other")


def test_a_daemon_that_is_stopping_is_waited_for(world: World) -> None:
    gate = world.base / "gate"
    with world.connect() as busy:
        events = busy.build(BuildRequest(context="/", dockerfile_text="gate", target=str(gate)))
        while not isinstance(next(events), StepLog):
            pass
        with world.connect() as other:
            old = other.status()["pid"]
            other.stop()
        timer = threading.Timer(0.3, gate.touch)
        timer.start()
        with world.connect() as fresh:
            assert fresh.status()["pid"] != old
        assert isinstance(list(events)[-1], Built)
        timer.join()


def test_a_long_runtime_directory_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    long = world.base / ("d" * 120)
    monkeypatch.setenv("PYBUILD_RUNTIME_DIR", str(long))
    with world.connect() as remote:
        assert remote.images()
        remote.stop()
    assert start.wait_for_end(start.Place(long), 10)


def test_a_runtime_directory_open_to_others_is_refused(world: World) -> None:
    world.runtime.mkdir()
    world.runtime.chmod(0o755)
    with pytest.raises(pybuild.errors.PybuildError, match="not private"):
        world.connect()
    world.runtime.chmod(0o700)


def test_the_daemon_runs_apart_from_us(world: World) -> None:
    with world.connect() as remote:
        pid = remote.status()["pid"]
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert os.readlink(f"/proc/{pid}/fd/1") == str(world.log)


def test_modules_in_the_working_directory_are_not_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = world.base / "context"
    trap.mkdir()
    (trap / "json.py").write_text("raise SystemExit('trapped')\n")
    monkeypatch.chdir(trap)
    with world.connect() as remote:
        assert remote.images()
    assert "-P" in start.daemon_command()


def test_the_client_of_a_build_imports_little(world: World) -> None:
    with world.connect():
        pass
    code = """
import sys
from pybuild.client import connect
from pybuild.api.request import BuildRequest
with connect() as backend:
    list(backend.build(BuildRequest(context="/")))
for heavy in ("aiohttp", "asyncio", "msgspec", "tqdm", "sqlite3", "http.client", "email", "typer", "ssl"):
    assert heavy not in sys.modules, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_running_starts_nothing(world: World) -> None:
    assert Remote.running() is None
    assert not world.socket.exists()
