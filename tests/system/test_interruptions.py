"""Builds that are broken off in every way: what is left is sound, nothing runs on, and the message helps."""

import os
import shlex
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from support import host, processes
from support.images import read_oci
from support.program import CLI, COMMAND, INTERRUPTED, Pybuild

pytestmark = pytest.mark.userns

# Distinct lengths of sleep, so that a test finds its own in the process table.
SLOW = "FROM base\nRUN echo quick > /quick\nRUN sleep 97.25\n"
SLEEP = ("sleep", "97.25")


@pytest.fixture
def slow(pybuild: Pybuild) -> Pybuild:
    pybuild.add_base()
    (pybuild.base / "Dockerfile").write_text(SLOW)
    return pybuild


def begin(program: Pybuild, context: Path) -> "subprocess.Popen[bytes]":
    client = program.start("build", "--progress=plain", "-f", program.base / "Dockerfile", context)
    processes.wait_for(*SLEEP)
    return client


def check_sound(program: Pybuild, context: Path) -> None:
    """The finished step was kept, and the store still builds and exports whole images."""
    text = SLOW.replace("sleep 97.25", "echo done > /done")
    result = program.build(context, "-t", "after", dockerfile=text)
    assert result.steps() == {"RUN echo quick > /quick": True, "RUN echo done > /done": False}
    program("save", "--format", "oci", "-o", program.base / "after.tar", "after")
    [image] = read_oci(program.base / "after.tar")
    assert image.read("done") == "done\n"


def test_ctrl_c(slow: Pybuild, context: Path) -> None:
    client = begin(slow, context)
    client.send_signal(signal.SIGINT)
    begun = time.monotonic()
    result = slow.finish(client, status=INTERRUPTED)
    assert time.monotonic() - begun < 12
    assert len(result.err.splitlines()) < 40
    processes.wait_until_gone(*SLEEP)
    check_sound(slow, context)


def test_terminated(slow: Pybuild, context: Path) -> None:
    client = begin(slow, context)
    client.terminate()
    assert slow.finish(client, status=None).status != 0
    processes.wait_until_gone(*SLEEP)
    check_sound(slow, context)


def test_killed_client(slow: Pybuild, context: Path) -> None:
    client = begin(slow, context)
    client.kill()
    client.communicate()
    processes.wait_until_gone(*SLEEP)
    check_sound(slow, context)


def test_killed_worker(slow: Pybuild, context: Path) -> None:
    client = begin(slow, context)
    # Those it forked look alike, and end with it
    processes.end_all(processes.find("_child", "worker"))
    result = slow.finish(client, status=1)
    assert "worker" in result.err or "killed" in result.err.lower()
    processes.wait_until_gone(*SLEEP)
    check_sound(slow, context)


def test_killed_payload_is_a_failed_run(slow: Pybuild, context: Path) -> None:
    client = begin(slow, context)
    payload = processes.find(*SLEEP)[-1]
    os.kill(payload.pid, signal.SIGKILL)
    result = slow.finish(client, status=1)
    assert "Dockerfile:3" in result.err
    assert "SIGKILL" in result.err or "137" in result.err
    check_sound(slow, context)


def test_killed_daemon(daemon: Pybuild, context: Path) -> None:
    daemon.add_base()
    (daemon.base / "Dockerfile").write_text(SLOW)
    client = begin(daemon, context)
    for process in processes.find("_child", "daemon"):
        os.kill(process.pid, signal.SIGKILL)
    result = daemon.finish(client, status=1)
    assert "daemon" in result.err
    processes.wait_until_gone(*SLEEP)
    check_sound(daemon, context)


def test_stopped_daemon_ends_its_builds(daemon: Pybuild, context: Path) -> None:
    # This one would not end by itself, however long it is waited for
    daemon.env["PYBUILD_STOP_GRACE"] = "0.2"
    daemon.add_base()
    (daemon.base / "Dockerfile").write_text(SLOW)
    client = begin(daemon, context)
    for process in processes.find("_child", "daemon"):
        os.kill(process.pid, signal.SIGTERM)
    assert daemon.finish(client, status=None, timeout=60).status != 0
    processes.wait_until_gone(seconds=30)
    check_sound(daemon, context)


def test_killed_at_any_moment_the_store_stays_sound(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    for number in range(300):
        (context / f"file{number}").write_text(f"{number}" * 100)
    text = "FROM base\nCOPY . /all/\nRUN cp -r /all /again\nRUN rm -r /all\nCOPY . /more/\n"
    (inline.base / "Dockerfile").write_text(text)
    for moment in (0.08, 0.15, 0.22, 0.3, 0.4, 0.55, 0.7):
        client = inline.start("build", "-t", "x", "--no-cache", "-f", inline.base / "Dockerfile", context)
        time.sleep(moment)
        client.kill()
        client.communicate()
        processes.wait_until_gone()
    image = inline.image(context, dockerfile=text)
    assert len([path for path in image.tree() if path.startswith(("again/file", "more/file"))]) == 600
    inline("prune", "-a", "-f")


def _many(program: Pybuild, other: Pybuild | None, context: Path) -> None:
    text = "FROM base\nCOPY . /all/\nRUN sleep 0.5; cp -r /all /again\nRUN echo end > /end\n"
    (program.base / "Dockerfile").write_text(text)
    doors = [program.env, program.env, (other or program).env]
    clients = [
        program.start("build", "-q", "-t", f"same{n}", "-f", program.base / "Dockerfile", context, env=dict(env))
        for n, env in enumerate(doors)
    ]
    ids = {program.finish(client).text.strip() for client in clients}
    for n in range(len(clients)):
        program("save", "--format", "oci", "-o", program.base / "same.tar", f"same{n}")
        [image] = read_oci(program.base / "same.tar")
        assert image.read("again/f7") == "7"
    assert all(image_id.startswith("sha256:") for image_id in ids)


def test_the_same_thing_built_at_once(pybuild: Pybuild, context: Path) -> None:
    pybuild.add_base()
    for number in range(50):
        (context / f"f{number}").write_text(f"{number}")
    _many(pybuild, None, context)


def test_daemon_and_inline_builds_share_a_store_at_once(daemon: Pybuild, inline: Pybuild, context: Path) -> None:
    daemon.add_base()
    for number in range(50):
        (context / f"f{number}").write_text(f"{number}")
    inline.env["PYBUILD_STORE"] = str(daemon.store)
    _many(daemon, inline, context)


def _on_small_disk(program: Pybuild, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in a mount namespace where the store is a tmpfs; `pybuild` is a function there."""
    program.store.mkdir()
    assert program.door == "inline"
    head = 'failing() { pybuild "$@" 2>&1 && exit 9 || echo "status $?"; }\n'
    head += f'pybuild() {{ {shlex.join(COMMAND)} "$@"; }}\nset -eu\n'
    head += f"mount -t tmpfs -o size=24m,mode=700 tmpfs {shlex.quote(str(program.store))}\n"
    options = ["-r", "--map-auto"] if os.geteuid() and not host.lacks_multiid() else ["-r"]
    return subprocess.run(
        ["unshare", *options, "-m", "sh", "-c", head + textwrap.dedent(script)],
        env={**program.env, "PYTHONPATH": str(CLI)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_full_disk(inline: Pybuild, context: Path) -> None:
    (context / "big").write_bytes(os.urandom(60 << 20))
    (context / "small").write_text("x")
    (inline.base / "big.Dockerfile").write_text("FROM scratch\nCOPY big /\n")
    (inline.base / "small.Dockerfile").write_text("FROM scratch\nCOPY small /\n")
    done = _on_small_disk(
        inline,
        f"""
        cd {shlex.quote(str(inline.base))}
        pybuild build -q -t first -f small.Dockerfile {shlex.quote(str(context))}
        failing build --progress=plain -t second -f big.Dockerfile {shlex.quote(str(context))}
        pybuild images --format '{{{{.Repository}}}}'
        echo x > {shlex.quote(str(context))}/small
        pybuild build -q -t third -f small.Dockerfile {shlex.quote(str(context))}
        df -k {shlex.quote(str(inline.store))} | tail -n 1
        pybuild save --format oci -o third.tar third
        """,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "status 1" in done.stdout
    assert "No space left" in done.stdout or "no space left" in done.stdout or "disk is full" in done.stdout
    assert "Traceback" not in done.stdout
    assert "second" not in done.stdout.split("status 1")[1].split()
    used = int(next(line for line in done.stdout.splitlines() if line.startswith("tmpfs")).split()[2])
    assert used < 4096
    [image] = read_oci(inline.base / "third.tar")
    assert image.added() == {"small"}


def test_read_only_store(inline: Pybuild, context: Path) -> None:
    (context / "small").write_text("x")
    (inline.base / "small.Dockerfile").write_text("FROM scratch\nCOPY small /\n")
    done = _on_small_disk(
        inline,
        f"""
        cd {shlex.quote(str(inline.base))}
        pybuild build -q -t first -f small.Dockerfile {shlex.quote(str(context))}
        mount -o remount,bind,ro {shlex.quote(str(inline.store))}
        echo y > {shlex.quote(str(context))}/small
        failing build --progress=plain -f small.Dockerfile {shlex.quote(str(context))}
        """,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "status 1" in done.stdout
    assert f"cannot be written: {inline.store}" in done.stdout
    assert "hint: set PYBUILD_STORE" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_store_directory_that_cannot_be_made(inline: Pybuild, context: Path) -> None:
    (inline.base / "file").write_text("")
    result = inline("images", env={"PYBUILD_STORE": str(inline.base / "file" / "store")}, status=1)
    assert str(inline.base / "file") in result.err
    assert len(result.err.splitlines()) <= 2


def test_leftovers_of_killed_builds_are_swept(inline: Pybuild, context: Path) -> None:
    inline.add_base()
    (inline.base / "Dockerfile").write_text(SLOW)
    client = begin(inline, context)
    client.kill()
    client.communicate()
    processes.wait_until_gone()
    inline.build(context, dockerfile="FROM base\nRUN echo next > /next\n")
    inline("prune", "-a", "-f")
    left = [path.name for path in (inline.store / "tmp").iterdir()] if (inline.store / "tmp").exists() else []
    assert left == []


def test_the_daemon_leaves_when_idle_and_comes_back(daemon: Pybuild, context: Path) -> None:
    daemon("images", env={"PYBUILD_IDLE_TIMEOUT": "1"})
    processes.wait_until_gone("_child", "daemon", seconds=15)
    assert daemon("images").status == 0
    status = daemon.json("daemon", "status", "--json")
    sockets = [value for value in status.values() if isinstance(value, str) and value.endswith(".sock")]
    assert len(sockets) == 1
    socket = Path(sockets[0].removeprefix("unix://"))
    assert (socket.stat().st_mode & 0o777, socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
